"""Rows to lines of data.jsonl, piece by piece, in one process or several: what comes out is the same."""

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from typing import Any, NamedTuple

from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import Problems, Warnings
from kfp_osft.stages.preprocess.parallel import in_order, usable_cores

# A piece is so many rows, or fewer where they are long.
_ROWS_OF_A_PIECE = 256
_CHARACTERS_OF_A_PIECE = 500_000
# With fewer pieces other processes are not worth their start.
_FEW_PIECES = 4


class Line(NamedTuple):
    """A tokenized row: its place, its tokens, those with loss, and its line for data.jsonl."""

    place: str
    length: int
    loss_tokens: int
    text: str


class Remarks(Problems, Warnings):
    """Keeps what is said about rows, to say it again where it is gathered: in the order of the rows."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []

    def add(self, *said: str) -> None:
        self.said.append(said)


class TokenizedPiece(NamedTuple):
    """What became of a piece's rows, and what was said about them by the name of who gathers it."""

    lines: list[Line]
    remarks: dict[str, list[tuple[str, ...]]]


def tokenized_pieces(
    rows: Iterable[Row], work: Callable[[list[Row]], TokenizedPiece], several_processes: bool
) -> Iterator[TokenizedPiece]:
    """Tokenizes rows in pieces and gives these in order.

    Args:
        rows: read a few pieces ahead.
        work: tokenizes a piece.
        several_processes: as many as there are cores for this one, unless there are few rows.
    """
    pieces = pieces_of(rows)
    first = list(islice(pieces, _FEW_PIECES))
    processes = usable_cores() if several_processes and len(first) == _FEW_PIECES else 1
    # Each process has one core to itself; the tokenizers' threads would only be in each other's way.
    with _one_thread_each() if processes > 1 else nullcontext():
        # What this finds out about template and rows, the copies of this process know.
        yield from map(work, first[:1])
        # What the imports left behind is not looked through again with each of millions of new lists, nor is it copied.
        gc.collect()
        gc.freeze()
        try:
            yield from in_order(chain(first[1:], pieces), work, processes)
        finally:
            gc.unfreeze()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    earlier = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if earlier is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = earlier


def pieces_of(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in order, in pieces that are small in memory."""
    piece: list[Row] = []
    characters = 0
    for row in rows:
        piece.append(row)
        characters += _characters(row.values)
        if len(piece) == _ROWS_OF_A_PIECE or characters > _CHARACTERS_OF_A_PIECE:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


def _characters(value: Any) -> int:
    """How many characters a value has, and how many numbers; what it is apart from them is small."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    if isinstance(value, list):
        return len(value) if value and isinstance(value[0], int) else sum(map(_characters, value))
    return 1
