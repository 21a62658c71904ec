"""The formats of dataset files, compressed or not: which one a file has, and its rows one by one.

No reader holds more of a file than a piece of it, so memory does not grow with the file.
"""

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.sizes import size_text
from kfp_osft.shared.rows.columnar import ARROW_FILE, ARROW_MESSAGE, arrow_rows, parquet_rows

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
#: For messages.
ALLOWED_FILES = f"{', '.join(FORMATS)}, each also with {' or '.join(COMPRESSIONS)}"

_COMPRESSION_MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BOM = b"\xef\xbb\xbf"
_CHARACTERS_AT_ONCE = 1 << 20
# A row of more is nobody's: a few bytes unpack to gigabytes of one, and an array may lack its end.
_LONGEST_ROW = 1 << 28
# gzip makes text a thousand times smaller at most, and real rows ten times.
_UNPACKED_ANYWAY, _MOST_TIMES_UNPACKED = 1 << 30, 500
#: An unclosed quote takes all that follows for one cell; a longer cell than this is taken for one.
_LONGEST_CSV_CELL = 1 << 28
_BLANKS = re.compile(r"[ \t\r\n]*")
# How far before the end of a text the decoder may find fault with a value that is only cut there (\ud83d\ude0).
_LONGEST_CUT_TOKEN = 12


def has_data_extension(name: str) -> bool:
    """Whether a file of this name is one of FORMATS, compressed or not."""
    return _extension(name) in FORMATS


def format_of_file(file: Path) -> str:
    """The file's format, by its extension; by its first bytes where it has none, as KFP's artifacts.

    Raises:
        InputError: an extension that is none of FORMATS; none, and content that does not show it.
    """
    extension = _extension(file.name)
    known = FORMATS.get(extension)
    if known and known != "json":
        return known
    if known or not extension:
        with _opened(file) as stream, _explaining_damage(file):
            begin = stream.read(4096)
        text = begin.removeprefix(_BOM).lstrip()[:1]
        if known:
            # A .json file holds an array of rows, or rows line by line as many tools write it.
            return "json" if text == b"[" else "jsonl"
        if begin.startswith(b"PAR1"):
            return "parquet"
        if begin.startswith((ARROW_FILE, ARROW_MESSAGE)):
            return "arrow"
        if text in (b"[", b"{"):
            return "json" if text == b"[" else "jsonl"
    raise InputError(f"dataset file {file} is not one of {ALLOWED_FILES}")


def rows_of(file: Path) -> Iterator[Any]:
    """Reads the values of a file's rows; in a sound file each is a dict.

    Raises:
        InputError: what format_of_file raises; a file that is cut, or is not of its format, with the line or row.
    """
    read = {"jsonl": _jsonl_rows, "json": _json_rows, "csv": _csv_rows, "parquet": parquet_rows, "arrow": arrow_rows}[
        format_of_file(file)
    ]
    with _opened(file) as stream, _explaining_damage(file):
        yield from read(file, stream)


def _extension(name: str) -> str:
    """The extension that gives the format: the one before .gz and .zst."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The file's content, decompressed. Its first bytes count as well as its name: servers pack what they send."""
    try:
        with file.open("rb") as stream:
            begin = stream.read(4)
    except OSError as error:
        raise InputError(f"dataset file {file} cannot be read: {error.strerror}") from None
    found = next((name for mark, name in _COMPRESSION_MARKS.items() if begin.startswith(mark)), None)
    compression = found or COMPRESSIONS.get(file.suffix.lower())
    if compression == "gzip":
        with io.BufferedReader(_Unpacked(file, gzip.open(file)), 1 << 20) as stream:
            yield stream
    elif compression == "zstd":
        import pyarrow

        packed = pyarrow.input_stream(str(file), compression="zstd")
        with io.BufferedReader(_Unpacked(file, packed), 1 << 20) as stream:
            yield stream
    else:
        with file.open("rb") as stream:
            yield stream


class _Unpacked(io.RawIOBase):
    """A compressed file's content, which fails where it is out of proportion to the file."""

    def __init__(self, file: Path, stream: Any) -> None:
        self._file, self._stream, self._unpacked = file, stream, 0
        self._most = max(_UNPACKED_ANYWAY, _MOST_TIMES_UNPACKED * file.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        self._unpacked += len(piece)
        if self._unpacked > self._most:
            raise InputError(f"{self._file.name}: unpacks to more than {_MOST_TIMES_UNPACKED} times its size")
        return len(piece)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def _explaining_damage(file: Path) -> Iterator[None]:
    """Turns what a decompressor or decoder raises into an InputError."""
    try:
        yield
    except UnicodeDecodeError:
        raise InputError(f"{file.name}: is not UTF-8") from None
    except RecursionError:
        raise InputError(f"{file.name}: holds JSON that is nested too deeply") from None
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(f"{file.name}: is truncated or damaged: {error}") from None


def _too_long(file: Path, place: str) -> InputError:
    return InputError(f"{file.name}, {place}: is longer than {size_text(_LONGEST_ROW)}")


def _jsonl_rows(file: Path, stream: BinaryIO) -> Iterator[Any]:
    hint = "; a .json file holds an array of rows, or a row a line" if _extension(file.name) == ".json" else ""
    for number, line in enumerate(iter(partial(stream.readline, _LONGEST_ROW), b""), start=1):
        if len(line) == _LONGEST_ROW:
            raise _too_long(file, f"line {number}")
        line = line.removeprefix(_BOM) if number == 1 else line
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except UnicodeDecodeError:
            raise InputError(f"{file.name}, line {number}: is not UTF-8") from None
        except ValueError as error:
            raise InputError(f"{file.name}, line {number}: is not JSON: {error}{hint}") from None
        except RecursionError:
            raise InputError(f"{file.name}, line {number}: holds JSON that is nested too deeply") from None


def _json_rows(file: Path, stream: BinaryIO) -> Iterator[Any]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig")
    rows = 0
    try:
        for value in _array_items(text.read):
            yield value
            rows += 1
    except json.JSONDecodeError as error:
        raise InputError(f"{file.name}, after row {rows}: is not JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file.name}, after row {rows}: is not UTF-8") from None
    # Of numbers, as those of more than 4,300 digits.
    except ValueError as error:
        raise InputError(f"{file.name}, after row {rows}: is not JSON: {error}") from None
    except _LongerRow:
        raise _too_long(file, f"after row {rows}") from None
    except RecursionError:
        raise InputError(f"{file.name}, after row {rows}: holds JSON that is nested too deeply") from None


class _LongerRow(Exception):
    pass


def _array_items(read: Callable[[int], str]) -> Iterator[Any]:
    """Decodes the items of a JSON array, one by one, from a text that is read in pieces.

    Raises:
        json.JSONDecodeError: with positions in the piece, which mean nothing to a reader of the file.
    """
    decode = json.JSONDecoder().raw_decode
    text, at = "", 0

    def more() -> bool:
        nonlocal text, at
        # As much again as is left: a row longer than the piece is decoded anew only so often.
        if len(text) - at > _LONGEST_ROW:
            raise _LongerRow
        piece = read(max(_CHARACTERS_AT_ONCE, len(text) - at))
        text, at = text[at:] + piece, 0
        return bool(piece)

    def pass_blanks() -> None:
        nonlocal at
        if blanks := _BLANKS.match(text, at):
            at = blanks.end()

    def next_character() -> str:
        nonlocal at
        pass_blanks()
        while at == len(text) and more():
            pass_blanks()
        return text[at : at + 1]

    next_character()
    at += 1
    if next_character() == "]":
        at += 1
    else:
        while True:
            next_character()
            try:
                value, end = decode(text, at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(text) - _LONGEST_CUT_TOKEN
                if is_cut and more():
                    continue
                raise
            if end == len(text) and more():
                # A number may go on.
                continue
            at = end
            yield value
            mark = next_character()
            at += 1
            if mark == "]":
                break
            if mark != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'" if mark else "the closing ']' is missing", text, at)
    if next_character():
        raise json.JSONDecodeError("there is more after the closing ']'", text, at)


def _csv_rows(file: Path, stream: BinaryIO) -> Iterator[dict[str, str]]:
    """The first line names the fields; each cell is text. Cells end at commas, or at semicolons or tabs where the first
    line has those and no comma, as spreadsheets export them."""
    csv.field_size_limit(_LONGEST_CSV_CELL)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    first = ""
    try:
        first = text.readline(_LONGEST_ROW)
    except UnicodeDecodeError:
        raise InputError(f"{file.name}, after line 0: is not UTF-8") from None
    if len(first) == _LONGEST_ROW:
        raise _too_long(file, "line 1")
    delimiter = "," if "," in first else next((mark for mark in ";\t" if mark in first), ",")
    reader = csv.reader(
        itertools.chain([first] if first else [], _csv_lines(file, text)), delimiter=delimiter, strict=True
    )
    try:
        header = next(reader, [])
        twice = sorted({field for field in header if header.count(field) > 1})
        if twice:
            raise InputError(
                f"{file.name}: its header names a field twice: {', '.join(repr(name[:40]) for name in twice)}; "
                "the first line of a CSV file must name its columns"
            )
        rows = 0
        for cells in reader:
            if not cells:
                continue
            rows += 1
            if len(cells) != len(header):
                raise InputError(f"{file.name}, row {rows}: has {len(cells)} cells, the header has {len(header)}")
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{file.name}, line {reader.line_num}: is not CSV: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file.name}, after line {reader.line_num}: is not UTF-8") from None


def _csv_lines(file: Path, text: io.TextIOWrapper) -> Iterator[str]:
    for line in iter(partial(text.readline, _LONGEST_ROW), ""):
        if len(line) == _LONGEST_ROW:
            raise _too_long(file, "one of its lines")
        yield line
