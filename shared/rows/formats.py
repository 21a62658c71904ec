"""The formats of dataset files, compressed or not: which one a file has, and its rows one by one.

No reader holds more of a file than a piece of it, so memory does not grow with the file.
"""

import csv
import errno
import gzip
import io
import itertools
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.sizes import size_text

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
# Arrow's IPC formats: a file begins with the one, a stream (and each message in it) with the other.
_ARROW_FILE, _ARROW_MESSAGE = b"ARROW1", b"\xff\xff\xff\xff"
_ARROW_END_OF_STREAM = _ARROW_MESSAGE + bytes(4)
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1024, 8 << 20
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


class Unreadable(NamedTuple):
    """A value that Python has no form for; who needs it says so.

    Attributes:
        kind: its Arrow type.
    """

    kind: str


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
        if begin.startswith((_ARROW_FILE, _ARROW_MESSAGE)):
            return "arrow"
        if text in (b"[", b"{"):
            return "json" if text == b"[" else "jsonl"
    raise InputError(f"dataset file {file} is not one of {ALLOWED_FILES}")


def rows_of(file: Path) -> Iterator[Any]:
    """Reads the values of a file's rows; in a sound file each is a dict.

    Raises:
        InputError: what format_of_file raises; a file that is cut, or is not of its format, with the line or row.
    """
    read = {"jsonl": _jsonl_rows, "json": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows, "arrow": _arrow_rows}[
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


def _parquet_rows(file: Path, stream: BinaryIO) -> Iterator[Any]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    # A buffer, or a column chunk is read whole: a file of one row group would be held in memory.
    options = {"buffer_size": 1 << 20, "pre_buffer": False}
    try:
        with _seekable(stream) as source, ParquetFile(source, **options) as parquet:
            for batch in parquet.iter_batches(batch_size=_batch_size(parquet.metadata)):
                yield from batch_rows(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file.name}: is not Parquet: {_in_one_line(error)}") from None


def _arrow_rows(file: Path, stream: BinaryIO) -> Iterator[Any]:
    """Arrow IPC: a stream, as `datasets` writes it, or a file, as pyarrow.feather does."""
    import pyarrow

    try:
        with _seekable(stream) as source:
            if source.read(len(_ARROW_FILE)) == _ARROW_FILE:
                with pyarrow.ipc.open_file(source) as reader:
                    for number in range(reader.num_record_batches):
                        yield from batch_rows(reader.get_batch(number))
                return
            # Readers take the end of the file for the end of the stream, also where it was cut between two batches.
            source.seek(-len(_ARROW_END_OF_STREAM), io.SEEK_END)
            if source.read() != _ARROW_END_OF_STREAM:
                raise InputError(f"{file.name}: is cut or not Arrow: a stream's end mark is missing")
            source.seek(0)
            with pyarrow.ipc.open_stream(source) as reader:
                for batch in reader:
                    yield from batch_rows(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file.name}: is not Arrow: {_in_one_line(error)}") from None


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _batch_size(metadata: Any) -> int:
    """So many rows of a Parquet file as make a batch of _BYTES_AT_ONCE, by its largest row group's average."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / group.num_rows for group in groups if group.num_rows), default=0)
    return max(1, min(_ROWS_AT_ONCE, int(_BYTES_AT_ONCE / largest))) if largest else _ROWS_AT_ONCE


def batch_rows(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow record batch as they were meant: without the nulls that fill objects, JSON as objects."""
    size = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE * batch.num_rows // (batch.nbytes or 1)))
    for begin in range(0, batch.num_rows, size):
        yield from _rows_of_batch(batch.slice(begin, size))


def _rows_of_batch(batch: Any) -> Iterator[dict[str, Any]]:
    names = batch.schema.names
    for values in zip(*map(_column_values, batch.columns), strict=True):
        yield dict(zip(names, values, strict=True))


def _column_values(column: Any) -> list[Any]:
    import pyarrow

    try:
        values = column.to_pylist()
    except (ValueError, OverflowError, ImportError, pyarrow.ArrowException):
        # Times beyond Python's, as nanoseconds. Only for a column that is trained on that matters.
        return [Unreadable(str(column.type)) if there else None for there in column.is_valid().to_pylist()]
    convert = _conversion(column.type)
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _conversion(kind: Any) -> Callable[[Any], Any] | None:
    """What turns a value of that Arrow type, as pyarrow gives it, into the one that was meant; None for plain types.

    In objects, a null stands for a field that this object does not have. Objects that differ from row to row are JSON
    (`datasets` from 4.7 on).
    """
    from pyarrow import types

    if getattr(kind, "extension_name", None):
        return json.loads if kind.extension_name == "arrow.json" else _conversion(kind.storage_type)
    if types.is_struct(kind):
        fields = {field.name: _conversion(field.type) for field in kind}
        return lambda value: {
            name: each if (convert := fields[name]) is None else convert(each)
            for name, each in value.items()
            if each is not None
        }
    if types.is_map(kind):
        return dict
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        convert = _conversion(kind.value_type)
        return convert and (lambda value: [None if each is None else convert(each) for each in value])
    return None


@contextmanager
def _seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The stream itself where it is a plain file; a compressed one is unpacked to a temporary file."""
    if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
        yield stream
        return
    with tempfile.TemporaryFile() as unpacked:
        try:
            while piece := stream.read(1 << 20):
                unpacked.write(piece)
            unpacked.seek(0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise InputError(
                f"{tempfile.gettempdir()}: no room to unpack a compressed file ({error.strerror}); set TMPDIR to a "
                "larger folder"
            ) from None
        yield unpacked
