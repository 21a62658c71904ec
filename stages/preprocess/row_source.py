"""The rows that preprocess reads: all rows of a dataset, or only those to train on, or those held out."""

import hashlib
import json
import random
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kfp_osft.shared.parameters.dataset_columns import DOCUMENT
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.columns import check_columns, with_columns
from kfp_osft.shared.rows.files import Row, read_rows
from kfp_osft.shared.rows.row_formats import PROCESSED_FIELDS, format_of_row, messages_of

#: What a row is used for.
LEFT_OUT, TRAINED_ON, HELD_OUT = 0, 1, 2


@dataclass(frozen=True)
class RowSource:
    """Rows of a dataset.

    Attributes:
        path: its file or folder.
        columns: field -> column (dataset_columns), or None where the columns have known names.
        uses: LEFT_OUT, TRAINED_ON or HELD_OUT for each row, one byte per row in reading order; None takes all rows.
        use: which of them this source gives.
    """

    path: Path
    columns: Mapping[str, str] | None = None
    uses: bytes | None = None
    use: int = TRAINED_ON

    def rows(self) -> Iterator[Row]:
        """Reads them, in order.

        Raises:
            InputError: what read_rows raises.
        """
        rows = read_rows(self.path)
        if self.uses is not None:
            rows = (row for row, use in zip(rows, self.uses, strict=False) if use == self.use)
        return with_columns(rows, self.columns) if self.columns else rows

    @property
    def count(self) -> int | None:
        """The number of rows; None where it is not known without reading them."""
        return None if self.uses is None else self.uses.count(self.use)


def check_first_row(path: Path, columns: Mapping[str, str] | None, is_processed: bool) -> None:
    """Checks that the first row has a known format, which is quick, while reading all rows may take long.

    Raises:
        InputError: it has no known format, or lacks a column; the dataset has no rows.
    """
    row = next(read_rows(path), None)
    if row is None:
        raise InputError(f"dataset {path} has no rows")
    if columns:
        if DOCUMENT in columns:
            raise InputError(f"dataset_columns names a {DOCUMENT}, which needs training_block_size")
        if is_processed:
            raise InputError(
                "dataset_columns does not apply to tokenized rows; omit it or training_use_processed_dataset"
            )
        check_columns(row, columns)
        row = next(with_columns([row], columns))
    if not is_processed:
        format_of_row(row)


def train_and_held_out(dataset: RowSource, subset: int, share: float, seed: int) -> tuple[RowSource, RowSource | None]:
    """Splits a dataset: chooses a subset of its rows, and holds out a share of these.

    Rows with the same conversation are on the same side, so that nothing held out is trained on. Reads the rows once;
    takes about 10 bytes of memory per row, and 40 more per row of the subset.

    Args:
        dataset: all of its rows.
        subset: how many rows to choose at random; 0 takes all.
        share: of the rows to hold out, at least 0 and below 1; unless it is 0, at least one row and not all.
        seed: for both choices.

    Raises:
        InputError: what reading raises; rows that cannot be split, because there is only one or all are the same.
    """
    keys = array("Q", (content_key(row, seed) for row in dataset.rows()))
    uses = bytearray([TRAINED_ON]) * len(keys)
    if subset >= len(keys) > 0 and subset:
        log(f"dataset_subset={subset}: the dataset has only {len(keys):,} rows, so all are used")
    elif subset:
        uses = bytearray([LEFT_OUT]) * len(keys)
        for index in random.Random(seed).sample(range(len(keys)), subset):
            uses[index] = TRAINED_ON
    if not share:
        return replace(dataset, uses=bytes(uses)), None
    held_out = _held_out_keys((key for key, use in zip(keys, uses, strict=True) if use), share)
    for index, key in enumerate(keys):
        if uses[index] and key in held_out:
            uses[index] = HELD_OUT
    if HELD_OUT not in uses or TRAINED_ON not in uses:
        raise InputError(
            f"training_validation_split={share:g}: the {uses.count(TRAINED_ON) + uses.count(HELD_OUT):,} rows of "
            f"{dataset.path} cannot be split, as rows with the same content stay together; give more rows, or 0"
        )
    source = replace(dataset, uses=bytes(uses))
    return source, replace(source, use=HELD_OUT)


def without_rows_of(held_out: RowSource, trained_on: RowSource) -> RowSource:
    """The held-out rows without those also trained on, whose loss would not show how the model generalizes.

    Raises:
        InputError: what reading raises; no rows are left.
    """
    keys = array("Q", map(content_key, held_out.rows()))
    known = {*keys}
    trained = {key for key in map(content_key, trained_on.rows()) if key in known}
    if not trained:
        return held_out
    uses = bytes(LEFT_OUT if key in trained else TRAINED_ON for key in keys)
    if TRAINED_ON not in uses:
        raise InputError(
            f"validation_path={held_out.path}: all of its {len(uses):,} rows are also in the training data"
        )
    known_ones = f"{uses.count(LEFT_OUT):,} of the {len(uses):,} held-out rows"
    log(f"Warning: {known_ones} are left out, as they are also in the training data")
    return replace(held_out, uses=uses)


def content_key(row: Row, seed: int = 0) -> int:
    """A 64-bit number that rows with the same content share: the same turns, whatever other fields they have.

    Sorting by it shuffles the rows, in the same way in every Python version and differently for each seed.
    """
    try:
        content: Any = [
            {
                name: value.strip() if isinstance(value, str) else value
                for name, value in message.items()
                if name != "train"
            }
            for message in messages_of(row)
        ]
    except InputError:
        # Tokens, a document, or a row that will be rejected when it is tokenized.
        content = [row.values.get(field) for field in PROCESSED_FIELDS]
        if None in content:
            content = row.values.get(DOCUMENT) or row.place
    text = json.dumps(content, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")


def _held_out_keys(keys: Iterator[int], share: float) -> set[int]:
    """The keys of rows that make up the share: the first ones that fit."""
    import numpy

    unique, counts = numpy.unique(numpy.fromiter(keys, dtype=numpy.uint64), return_counts=True)
    rows = int(counts.sum())
    wanted = max(1, min(rows - 1, round(share * rows)))
    chosen: set[int] = set()
    for key, count in zip(unique, counts, strict=True):
        if wanted == 0:
            break
        # A group larger than what is still wanted stays in the training data.
        if count <= wanted:
            chosen.add(int(key))
            wanted -= int(count)
    return chosen
