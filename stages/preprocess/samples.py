"""The rows of a source as samples: tokenizes them, writes those that training keeps, and reports on the others."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.parameters.checking import CheckedParameters
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.progress import Progress
from kfp_osft.shared.rows.chat_tokens import ChatTokenizer, Sample
from kfp_osft.shared.rows.files import Row, rows_known_cheaply
from kfp_osft.shared.rows.messages import Conversation, Problems
from kfp_osft.shared.rows.row_formats import RowFormat, conversations
from kfp_osft.stages.preprocess.data_report import DataReport
from kfp_osft.stages.preprocess.documents import documents
from kfp_osft.stages.preprocess.processed_rows import LineWriter, ProcessedRow, processed_rows
from kfp_osft.stages.preprocess.row_source import RowSource
from kfp_osft.stages.preprocess.tokenizing import Line, Remarks, TokenizedPiece


def write_samples(
    source: RowSource,
    files: list[Path],
    target: Path,
    checked: CheckedParameters,
    pieces: Iterable[TokenizedPiece],
) -> dict[str, Any]:
    """Writes the samples that training keeps and returns the report.

    Args:
        source: says how many rows there are, where it knows.
        files: of the source, to guess that number.
        target: file to write.
        pieces: of the source's rows, as row_worker tokenizes them.

    Raises:
        InputError: rows that cannot be trained on, too many dropped rows, or none left.
    """
    osft, in_blocks = checked.osft, "block_size" in checked.osft
    report, problems = DataReport(osft["max_seq_len"]), Problems()
    gatherers = {"problems": problems, "warnings": report.warnings, "left_out": report.left_out}
    progress = Progress("Tokenized", rows_known_cheaply(files) if source.count is None else source.count, "rows")
    with target.open("w", encoding="ascii", buffering=1 << 20) as file:
        for piece in pieces:
            for name, said in piece.remarks.items():
                for one in said:
                    gatherers[name].add(*one)
            for place, length, loss_tokens, line in piece.lines:
                progress.add()
                # Documents are joined and cut: none is too long, or too short.
                if not in_blocks and report.drops(place, length):
                    continue
                if not in_blocks and length > osft["max_tokens_per_gpu"]:
                    problems.add(
                        f"{place}: has {length} tokens, more than "
                        f"training_max_tokens_per_gpu={osft['max_tokens_per_gpu']}; raise that, or lower "
                        "training_max_seq_len to drop such rows"
                    )
                elif not loss_tokens:
                    problems.add(f"{place}: has no token to learn from")
                else:
                    report.keep(length, loss_tokens)
                    file.write(line)
    problems.raise_if_any()
    if not report.rows:
        raise InputError(f"dataset {source.path} has no rows")
    if not report.samples:
        dropped = report.dropped_in_words()
        lost = "; ".join([*([f"dropped were {dropped}"] if dropped else []), *report.left_out.lines()])
        raise InputError(f"dataset {source.path}: no row is left to train on; {lost}")
    told = report.to_dict()
    check_dropped(source.path, told, checked)
    return told


def row_worker(checked: CheckedParameters, tokenizer: Any) -> Callable[[list[Row]], TokenizedPiece]:
    """What tokenizes a piece of the rows; in each process it goes on knowing what it found in the pieces before."""
    osft = checked.osft
    # Ids may have holes, so that the last is beyond their number.
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    longest_token = max(map(len, tokenizer.get_vocab()))
    writer = LineWriter(vocabulary)
    remarks = {"problems": Remarks(), "warnings": Remarks(), "left_out": Remarks()}
    problems, warnings, left_out = remarks.values()
    is_chat = not osft.get("use_processed_dataset") and "block_size" not in osft
    chat = ChatTokenizer(tokenizer, warnings) if is_chat else None
    row_format = RowFormat()

    def tokenize(rows: list[Row]) -> TokenizedPiece:
        lines: list[Line] = []
        samples: Iterator[tuple[str, Sample | ProcessedRow]]
        if "block_size" in osft:
            samples = documents(rows, tokenizer, problems, left_out)
        elif chat is None:
            samples = processed_rows(rows, vocabulary, problems, warnings)
        else:
            unmask, eos_token = osft.get("unmask_messages", False), tokenizer.eos_token
            found = conversations(rows, unmask, problems, warnings, left_out, eos_token, row_format)
            samples = chat.samples(_without_far_too_long(found, longest_token, osft["max_seq_len"], lines), problems)
        for place, sample in samples:
            text = writer.line(sample)
            lines.append(Line(place, len(sample.input_ids), sample.num_loss_counted_tokens, text))
        said = {name: one.said for name, one in remarks.items() if one.said}
        for one in remarks.values():
            one.said = []
        return TokenizedPiece(lines, said)

    return tokenize


def _without_far_too_long(
    conversations: Iterable[Conversation], longest_token: int, max_seq_len: int, lines: list[Line]
) -> Iterator[Conversation]:
    """Tells only the length of the rows that have too many tokens whatever they are.

    Millions of them take a gigabyte to be counted.
    """
    for conversation in conversations:
        at_least = sum(len(message.get("content") or "") for message in conversation.messages) // longest_token
        if at_least < max_seq_len:
            yield conversation
        else:
            lines.append(Line(conversation.place, at_least, 0, ""))


def check_dropped(dataset: Path, report: Mapping[str, Any], checked: CheckedParameters) -> None:
    """Raises InputError where more rows are dropped than training_max_dropped_share allows."""
    dropped, limit = report["too_long"] + report["too_short"], checked.data["max_dropped_share"]
    if dropped > limit * report["rows"]:
        raise InputError(
            f"dataset {dataset}: {dropped:,} of {report['rows']:,} rows are dropped "
            f"({dropped / report['rows']:.0%}), more than training_max_dropped_share={limit:g}: "
            f"{report['dropped_in_words']}"
        )
