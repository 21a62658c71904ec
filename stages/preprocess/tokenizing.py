"""Turns rows into lines of data.jsonl, piece by piece, in one or several processes with the same result."""

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from typing import Any, NamedTuple

from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import Problems, Warnings
from kfp_osft.stages.preprocess.parallel import in_order, usable_cores

# Rows in a piece; fewer where they are long.
_ROWS_OF_A_PIECE = 256
_CHARACTERS_OF_A_PIECE = 500_000
# With fewer pieces, starting processes does not pay off.
_FEW_PIECES = 4


class Line(NamedTuple):
    """A tokenized row: its place, its number of tokens and of tokens with loss, and its line for data.jsonl."""

    place: str
    length: int
    loss_tokens: int
    text: str


class Remarks(Problems, Warnings):
    """Records what is added, so that the process that gathers problems and warnings can add it in the rows' order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []

    def add(self, *said: str, **named: str) -> None:
        self.said.append((*said, *named.values()))


class TokenizedPiece(NamedTuple):
    """The lines of a piece's rows, and the remarks about them by the name of their collector."""

    lines: list[Line]
    remarks: dict[str, list[tuple[str, ...]]]


def tokenized_pieces(
    rows: Iterable[Row], work: Callable[[list[Row]], TokenizedPiece], several_processes: bool
) -> Iterator[TokenizedPiece]:
    """Tokenizes rows in pieces and yields these in order.

    Args:
        rows: read a few pieces ahead.
        work: tokenizes a piece.
        several_processes: uses one process per available core, unless there are few rows.
    """
    pieces = pieces_of(rows)
    first = list(islice(pieces, _FEW_PIECES))
    processes = usable_cores() if several_processes and len(first) == _FEW_PIECES else 1
    # Each process has a core to itself, for which the tokenizers' threads would only compete.
    with _one_thread_each() if processes > 1 else nullcontext():
        # The forked processes inherit what this finds out about template and rows.
        yield from map(work, first[:1])
        # The garbage collector need not scan what the imports left, nor cause its pages to be copied after the forks.
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
    """Rows in order, in pieces that take little memory."""
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
    """The number of characters and numbers in a value, which are most of its size."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    if isinstance(value, list):
        return len(value) if value and isinstance(value[0], int) else sum(map(_characters, value))
    return 1
