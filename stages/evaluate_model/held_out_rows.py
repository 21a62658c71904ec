"""Held-out rows as samples: conversations through the model's chat template, or rows that preprocess tokenized."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.chat_tokens import NO_LOSS, ChatTokenizer, Sample
from kfp_osft.shared.rows.files import Row, count_rows, read_rows
from kfp_osft.shared.rows.messages import Problems, Warnings
from kfp_osft.shared.rows.row_formats import PROCESSED_FIELDS, conversations

# Longer rows are cut: the logits of a token take as much memory as the vocabulary is large.
_TOKENS = 2048


def held_out_samples(dataset: Path, tokenizer: Any, rows: int) -> list[Sample]:
    """Samples of at most `rows` rows, evenly spaced over the dataset, so that one sorted by topic is represented.

    Args:
        dataset: file or folder of rows in one of row_formats.FORMATS, or of rows with input_ids and labels such as the
            validation.jsonl that preprocess writes.
        tokenizer: of the model.

    Raises:
        InputError: the dataset cannot be read, a row is not valid, or no row has a token to predict.
    """
    total = count_rows(dataset)
    if not total:
        raise InputError(f"dataset {dataset} has no rows")
    chosen = list(_evenly(read_rows(dataset), total, rows))
    if all(field in chosen[0].values for field in PROCESSED_FIELDS):
        vocabulary = max(tokenizer.get_vocab().values()) + 1
        samples = [_tokenized(row, vocabulary) for row in chosen]
    else:
        problems = Problems()
        found = list(conversations(chosen, False, problems, Warnings()))
        problems.raise_if_any()
        samples = [sample for _, sample in ChatTokenizer(tokenizer).samples(found)]
    counted = [sample for sample in map(_cut, samples) if sample.num_loss_counted_tokens]
    if not counted:
        raise InputError(f"dataset {dataset}: none of the {len(chosen):,} rows has an assistant turn to measure")
    return counted


def last_answer(sample: Sample) -> tuple[list[int], list[int]]:
    """The tokens before the last learnt turn, and those of that turn with its end; of a document, none and all."""
    begin, end = sample.learnt[-1]
    return sample.input_ids[:begin], sample.input_ids[begin:end]


def _evenly(rows: Iterator[Row], total: int, wanted: int) -> Iterator[Row]:
    taken = 0
    for at, row in enumerate(rows):
        if at * min(wanted, total) >= taken * total:
            taken += 1
            yield row


def _tokenized(row: Row, vocabulary: int) -> Sample:
    ids, labels = (row.values.get(field) for field in PROCESSED_FIELDS)
    if not isinstance(ids, list) or not isinstance(labels, list) or len(ids) != len(labels):
        raise InputError(f"{row.place}: input_ids and labels are not two lists of the same length")
    if any(not isinstance(token, int) or not 0 <= token < vocabulary for token in ids):
        raise InputError(f"{row.place}: an id in input_ids is outside the model's vocabulary of {vocabulary}")
    return Sample(ids, _ranges(labels))


def _ranges(labels: Sequence[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for at, label in enumerate(labels):
        if label == NO_LOSS:
            continue
        if ranges and ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], at + 1)
        else:
            ranges.append((at, at + 1))
    return ranges


def _cut(sample: Sample) -> Sample:
    learnt = [(begin, min(end, _TOKENS)) for begin, end in sample.learnt if begin < _TOKENS]
    return Sample(sample.input_ids[:_TOKENS], learnt)
