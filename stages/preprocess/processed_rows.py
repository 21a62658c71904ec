"""Rows of token ids and labels, as mini-trainer reads them: writing ours, and checking a user's own."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kfp_osft.shared.reporting.errors import kind_of
from kfp_osft.shared.rows.chat_tokens import NO_LOSS, Sample
from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import Problems, Warnings

_NO_LOSS_TEXT = str(NO_LOSS)
_LENGTHS = ("len", "num_loss_counted_tokens")


class ProcessedRow(NamedTuple):
    """Token ids and labels of the same length, as the user gave them."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_loss_counted_tokens(self) -> int:
        """Tokens with loss as mini-trainer counts them: a causal model predicts nothing for the first token."""
        return len(self.labels[1:]) - self.labels[1:].count(NO_LOSS)


class LineWriter:
    """Makes the lines of data.jsonl: labels, input_ids, len, num_loss_counted_tokens.

    Args:
        vocabulary: number of token ids.
    """

    def __init__(self, vocabulary: int) -> None:
        # Joining the texts of ids is twice as fast as json.dumps, and the labels are the same texts.
        self._text_of = [str(token) for token in range(vocabulary)].__getitem__

    def line(self, sample: Sample | ProcessedRow) -> str:
        ids = list(map(self._text_of, sample.input_ids))
        if isinstance(sample, Sample):
            labels = [_NO_LOSS_TEXT] * len(ids)
            for begin, end in sample.learnt:
                labels[begin:end] = ids[begin:end]
        else:
            labels = [_NO_LOSS_TEXT if label == NO_LOSS else self._text_of(label) for label in sample.labels]
        return (
            f'{{"labels":[{",".join(labels)}],"input_ids":[{",".join(ids)}],"len":{len(ids)},'
            f'"num_loss_counted_tokens":{sample.num_loss_counted_tokens}}}\n'
        )


def read_line(line: str) -> ProcessedRow:
    """Parses a line that LineWriter made."""
    fields = json.loads(line)
    return ProcessedRow(fields["input_ids"], fields["labels"])


def processed_rows(
    rows: Iterable[Row], vocabulary: int, problems: Problems, warnings: Warnings
) -> Iterator[tuple[str, ProcessedRow]]:
    """Yields the place and content of each valid row.

    Args:
        rows: with `input_ids` and `labels`, and optionally `len` and `num_loss_counted_tokens`.
        vocabulary: number of ids in the model's tokenizer.
        problems: collects what is wrong with a row; such a row is skipped.
        warnings: collects what is odd about a row that is trained on nevertheless.
    """
    for row in rows:
        problem = _problem(row.values, vocabulary)
        if problem:
            problems.add(f"{row.place}: {problem}")
            continue
        ids, labels = row.values["input_ids"], row.values["labels"]
        if any(label not in (token, NO_LOSS) for label, token in zip(labels, ids, strict=True)):
            warnings.add("a label differs from the token at its position; the trainer shifts labels itself", row.place)
        yield row.place, ProcessedRow(ids, labels)


def _problem(values: dict[str, Any], vocabulary: int) -> str | None:
    for field in ("input_ids", "labels"):
        numbers = values.get(field)
        if not isinstance(numbers, list) or not set(map(type, numbers)) <= {int}:
            return f"'{field}' is missing or not a list of integers (training_use_processed_dataset is set)"
    ids, labels = values["input_ids"], values["labels"]
    if len(ids) != len(labels):
        return f"has {len(ids)} input_ids and {len(labels)} labels"
    if not ids:
        return "has no tokens"
    if min(ids) < 0 or max(ids) >= vocabulary:
        return f"an id in input_ids is outside the model's vocabulary of {vocabulary}"
    if any(label != NO_LOSS and not 0 <= label < vocabulary for label in labels):
        return f"a label is neither {NO_LOSS} nor in the model's vocabulary of {vocabulary}"
    for field, true in zip(_LENGTHS, (len(ids), ProcessedRow(ids, labels).num_loss_counted_tokens), strict=True):
        said = values.get(field)
        if said is None:
            continue
        if type(said) is not int:
            return f"'{field}' is {kind_of(said)}, expected an integer"
        if said != true:
            return f"'{field}' is {said}, but input_ids and labels give {true}"
    return None
