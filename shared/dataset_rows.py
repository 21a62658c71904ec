"""Rows of a dataset on disk: which files it has, what is in them, and whether a conversation can be trained on."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.errors import InputError

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}

#: instructlab-training's marks around what is learnt; in a row's own text they would be taken for marks.
CONTENT_BEGIN, CONTENT_END = "<|UNMASK_BEGIN|>", "<|UNMASK_END|>"
REASONING_BEGIN, REASONING_END = "<|UNMASK_REASONING_BEGIN|>", "<|UNMASK_REASONING_END|>"
MASK = "<|MASK|>"
MARKERS = (CONTENT_BEGIN, CONTENT_END, REASONING_BEGIN, REASONING_END, MASK)

#: instructlab's legacy role: one message whose text holds a whole conversation, in either of two forms.
PRETRAINING_ROLE = "pretraining"
_LEGACY_TURN = re.compile(r"<\|(user|assistant)\|>\n([^<]+)")
_GRANITE_TURN = re.compile(r"<\|start_of_role\|>(user|assistant)<\|end_of_role\|>\n([^<]+)")

_MOST_PROBLEMS_SHOWN = 10


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
                raise InputError(f"{place}: is {_kind(values)}, expected an object with the fields of a row")
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


def messages_of(row: Row) -> list[dict[str, Any]]:
    """The row's conversation, checked.

    `messages` may be a list or, as tabular files have it, a string that holds such a list as JSON.

    Raises:
        InputError: naming the row: no messages, an empty list, a message that is no object, without a role, with
            null or non-string content (null is allowed beside tool_calls), with one of the trainer's markers.
    """
    place, values = row
    if "messages" not in values:
        raise InputError(f"{place}: has no 'messages'; it has {', '.join(map(repr, values)) or 'no field'}")
    messages = values["messages"]
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError:
            raise InputError(f"{place}: 'messages' is a string that is not JSON") from None
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{place}: 'messages' is {_kind(messages)}, expected a list of at least one message")
    for index, message in enumerate(messages):
        _check_message(f"{place}: messages[{index}]", message)
    return messages


def is_unmasked(row: Row, unmask_messages: bool) -> bool:
    """Whether all turns but the system's are learnt: the parameter says so for all rows, or the row for itself."""
    return unmask_messages or bool(row.values.get("unmask"))


def without_pretraining_role(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the turns inside those of the role "pretraining" in their place.

    As instructlab-training does it (data_process.extract_messages_from_pretraining_text); a turn ends at "<".
    """
    unrolled: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != PRETRAINING_ROLE:
            unrolled.append(message)
            continue
        text = message["content"]
        turn = _LEGACY_TURN if "<|user|>" in text or "<|assistant|>" in text else _GRANITE_TURN
        unrolled += [{"role": role, "content": content} for role, content in turn.findall(text)]
    return unrolled


class Problems:
    """Gathers what is wrong with rows, to tell the first ones and the count at once."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._count = 0

    def add(self, problem: str) -> None:
        self._count += 1
        if len(self._first) < _MOST_PROBLEMS_SHOWN:
            self._first.append(problem)

    def raise_if_any(self) -> None:
        """Raises an InputError with the first problems and their count if there were any."""
        if not self._count:
            return
        more = self._count - len(self._first)
        raise InputError("\n".join(self._first) + (f"\nand {more} more rows like these" if more else ""))


def _check_message(place: str, message: Any) -> None:
    if not isinstance(message, Mapping):
        raise InputError(f"{place} is {_kind(message)}, expected an object with 'role' and 'content'")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InputError(f"{place}: 'role' is {_kind(role)}, expected a string as 'user' or 'assistant'")
    for field in ("content", "reasoning_content", "thinking"):
        text = message.get(field)
        if text is None and (field != "content" or role == "assistant" and message.get("tool_calls")):
            continue
        if not isinstance(text, str):
            raise InputError(f"{place}: '{field}' is {_kind(text)}, expected a string")
        marker = next((marker for marker in MARKERS if marker in text), None)
        if marker:
            raise InputError(f"{place}: '{field}' holds {marker}, which the trainer uses as a mark of its own")


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


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, str)) and not value:
        return f"an empty {'list' if isinstance(value, list) else 'string'}"
    return {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list",
            dict: "an object"}.get(type(value), type(value).__name__)
