"""The rows of Parquet and Arrow files, as they were meant: without the nulls that fill objects, JSON as objects."""

import errno
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.plain_text import plain_text

#: How Arrow's IPC formats begin: a file with the one, a stream (and each message in it) with the other.
ARROW_FILE, ARROW_MESSAGE = b"ARROW1", b"\xff\xff\xff\xff"
_ARROW_END_OF_STREAM = ARROW_MESSAGE + bytes(4)
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1024, 8 << 20


class Unreadable(NamedTuple):
    """A value that Python has no form for; who needs it says so.

    Attributes:
        kind: its Arrow type.
    """

    kind: str


def parquet_rows(file: Path, stream: BinaryIO) -> Iterator[Any]:
    """The rows of a Parquet file; raises InputError for one that is not."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    # A buffer, or a column chunk is read whole: a file of one row group would be held in memory.
    options = {"buffer_size": 1 << 20, "pre_buffer": False}
    try:
        with _seekable(stream) as source, ParquetFile(source, **options) as parquet:
            for batch in parquet.iter_batches(batch_size=_batch_size(parquet.metadata)):
                yield from batch_rows(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file.name}: is not Parquet: {plain_text(str(error))}") from None


def arrow_rows(file: Path, stream: BinaryIO) -> Iterator[Any]:
    """The rows of Arrow IPC: a stream, as `datasets` writes it, or a file, as pyarrow.feather does; raises InputError
    for what is neither."""
    import pyarrow

    try:
        with _seekable(stream) as source:
            if source.read(len(ARROW_FILE)) == ARROW_FILE:
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
        raise InputError(f"{file.name}: is not Arrow: {plain_text(str(error))}") from None


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
