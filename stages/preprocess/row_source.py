"""The rows that preprocess reads: all of a dataset, or those of its rows that are trained on, or held out."""

import hashlib
import json
import random
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.columns import check_columns, with_columns
from kfp_osft.shared.rows.files import Row, read_rows
from kfp_osft.shared.rows.row_formats import PROCESSED_FIELDS, format_of_row, messages_of

#: What becomes of a row.
LEFT_OUT, TRAINED_ON, HELD_OUT = 0, 1, 2


class RowSource(NamedTuple):
    """Rows of a dataset.

    Attributes:
        path: its file or folder.
        columns: field -> column (dataset_columns), or None where the columns are the known ones.
        uses: what becomes of each of its rows, a byte a row in the order of reading; None takes all.
        use: the rows of this use are meant.
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
        """How many there are, where that is known without reading them."""
        return None if self.uses is None else self.uses.count(self.use)


def check_first_row(path: Path, columns: Mapping[str, str] | None, is_processed: bool) -> None:
    """Sees that the first row is of a known format, which takes no time, where all rows may take long.

    Raises:
        InputError: it is not, or lacks a column; no row at all.
    """
    row = next(read_rows(path), None)
    if row is None:
        raise InputError(f"dataset {path} has no rows")
    if columns:
        if is_processed:
            raise InputError(
                "dataset_columns has no use for rows of tokens; leave it out, or training_use_processed_dataset"
            )
        check_columns(row, columns)
        row = next(with_columns([row], columns))
    if not is_processed:
        format_of_row(row)


def train_and_held_out(dataset: RowSource, subset: int, share: float, seed: int) -> tuple[RowSource, RowSource | None]:
    """Divides a dataset: a subset of its rows, and a share of these to hold out.

    Rows with the same conversation are on the same side, so that nothing held out is trained on. Reads the rows once;
    memory is some 10 bytes a row, and 40 more a row of the subset.

    Args:
        dataset: all of its rows.
        subset: so many of the rows, chosen at random; 0 takes all.
        share: of the rows to hold out, from 0 to below 1; at least one row, and not all, unless it is 0.
        seed: of both choices.

    Raises:
        InputError: what reading raises; rows that cannot be divided, because they are one or all the same.
    """
    keys = array("Q", (content_key(row, seed) for row in dataset.rows()))
    uses = bytearray([TRAINED_ON]) * len(keys)
    if subset >= len(keys) > 0 and subset:
        log(f"dataset_subset={subset}: the dataset has {len(keys):,} rows, all of them are taken")
    elif subset:
        uses = bytearray([LEFT_OUT]) * len(keys)
        for index in random.Random(seed).sample(range(len(keys)), subset):
            uses[index] = TRAINED_ON
    if not share:
        return dataset._replace(uses=bytes(uses)), None
    held_out = _held_out_keys((key for key, use in zip(keys, uses, strict=True) if use), share)
    for index, key in enumerate(keys):
        if uses[index] and key in held_out:
            uses[index] = HELD_OUT
    if HELD_OUT not in uses or TRAINED_ON not in uses:
        raise InputError(
            f"training_validation_split={share:g}: the {uses.count(TRAINED_ON) + uses.count(HELD_OUT):,} rows of "
            f"{dataset.path} cannot be divided, rows with the same content stay together; give more rows, or 0"
        )
    source = dataset._replace(uses=bytes(uses))
    return source, source._replace(use=HELD_OUT)


def without_rows_of(held_out: RowSource, trained_on: RowSource) -> RowSource:
    """The held-out rows less those that are trained on too, which would say nothing of what is new to the model.

    Raises:
        InputError: what reading raises; none is left.
    """
    keys = array("Q", map(content_key, held_out.rows()))
    known = {*keys}
    trained = {key for key in map(content_key, trained_on.rows()) if key in known}
    if not trained:
        return held_out
    uses = bytes(LEFT_OUT if key in trained else TRAINED_ON for key in keys)
    if TRAINED_ON not in uses:
        raise InputError(f"validation_path={held_out.path}: all {len(uses):,} rows of it are among those to train on")
    known_ones = f"{uses.count(LEFT_OUT):,} of the {len(uses):,} held-out rows"
    log(f"Warning: {known_ones} are left out, as they are among those to train on")
    return held_out._replace(uses=uses)


def content_key(row: Row, seed: int = 0) -> int:
    """A number of 64 bits that rows of the same content share: what their turns say, whatever else the rows hold.

    In the order of these numbers rows are shuffled, in each version of Python alike, in another way for each seed.
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
        # Tokens, or a row that is refused when it is read to train on it.
        content = [row.values.get(field) for field in PROCESSED_FIELDS]
        if None in content:
            content = row.place
    text = json.dumps(content, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")


def _held_out_keys(keys: Iterator[int], share: float) -> set[int]:
    """The keys of so many rows as make the share; the first ones that fit in."""
    import numpy

    unique, counts = numpy.unique(numpy.fromiter(keys, dtype=numpy.uint64), return_counts=True)
    rows = int(counts.sum())
    wanted = max(1, min(rows - 1, round(share * rows)))
    chosen: set[int] = set()
    for key, count in zip(unique, counts, strict=True):
        if wanted == 0:
            break
        # A group that is larger than what is wanted stays in the training.
        if count <= wanted:
            chosen.add(int(key))
            wanted -= int(count)
    return chosen
