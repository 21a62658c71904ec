"""The files of a dataset on disk, and the rows in them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.errors import InputError, kind_of

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}


class Row(NamedTuple):
    """A row and where it stands, as "train.jsonl, row 3" (counted from 1)."""

    place: str
    values: dict[str, Any]


def dataset_files(path: Path) -> list[Path]:
    """The data files of a dataset: the file itself, or those of a folder, sorted by name.

    Hidden files and folders are passed over, and so are files that are no data (a README).

    Raises:
        InputError: nothing there, no data file in the folder, an extension that is none of FORMATS, an empty file.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in FORMATS and file.is_file()
                       and not any(part.startswith(".") for part in file.relative_to(path).parts))
        if not files:
            raise InputError(f"dataset folder {path} holds no data file; allowed: {', '.join(FORMATS)}")
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"dataset {path} does not exist")
    for file in files:
        if file.stat().st_size == 0:
            raise InputError(f"dataset file {file} is empty")
        _format_of(file)
    return files


def read_rows(path: Path) -> Iterator[Row]:
    """Reads a dataset file or folder row by row.

    A JSON Lines file and a Parquet file are read in pieces; a .json file (an array of rows) is read whole.

    Raises:
        InputError: what dataset_files raises; a file that is not of its format; a row that is no object.
    """
    for file in dataset_files(path):
        read = {"jsonl": _read_jsonl, "json": _read_json, "parquet": _read_parquet}[_format_of(file)]
        for number, values in enumerate(read(file), start=1):
            place = f"{file.name}, row {number}"
            if not isinstance(values, dict):
                raise InputError(f"{place}: is {kind_of(values)}, expected an object with the fields of a row")
            yield Row(place, values)


def count_rows(path: Path) -> int:
    """Counts the rows and sees that each is readable.

    Raises:
        InputError: what read_rows raises; no row at all.
    """
    rows = sum(1 for _ in read_rows(path))
    if rows == 0:
        raise InputError(f"dataset {path} has no rows")
    return rows


def _format_of(file: Path) -> str:
    known = FORMATS.get(file.suffix.lower())
    if known == "json":
        # A .json file holds an array of rows, or rows line by line as many tools write it.
        return "json" if _first_character(file) == b"[" else "jsonl"
    if known:
        return known
    # KFP's artifacts have no extension: look.
    with file.open("rb") as opened:
        if opened.read(4) == b"PAR1":
            return "parquet"
    if not file.suffix:
        found = {b"[": "json", b"{": "jsonl"}.get(_first_character(file))
        if found:
            return found
    raise InputError(f"dataset file {file} is none of {', '.join(FORMATS)}")


def _first_character(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _read_jsonl(file: Path) -> Iterator[Any]:
    hint = "; a .json file holds an array of rows, or a row a line" if file.suffix.lower() == ".json" else ""
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            yield _loads(f"{file.name}, line {number}", line, hint)


def _read_json(file: Path) -> Iterator[Any]:
    yield from _loads(file.name, file.read_bytes().removeprefix(b"\xef\xbb\xbf"))


def _loads(place: str, text: bytes, hint: str = "") -> Any:
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise InputError(f"{place}: is not UTF-8") from None
    except ValueError as error:
        raise InputError(f"{place}: is not JSON: {error}{hint}") from None


def _read_parquet(file: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file.name}: is not Parquet: {error}") from None
