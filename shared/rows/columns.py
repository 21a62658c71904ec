"""Rows of a table whose columns have other names than the known formats: mapping them, and guessing the mapping."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.files import Row

#: What the columns of question and answer are called, by the field that they are; earlier names are likelier.
_QUESTION_NAMES = (
    *("question", "query", "prompt", "instruction", "user", "human", "problem", "request", "input", "inputs", "q"),
    *("user_message", "user_prompt", "user_input"),
)
_ANSWER_NAMES = (
    *(
        "answer",
        "response",
        "completion",
        "output",
        "assistant",
        "reply",
        "solution",
        "target",
        "gpt",
        "bot",
        "outputs",
    ),
    *("targets", "a", "chosen", "assistant_message", "assistant_response", "model_response", "ground_truth"),
)
_SYSTEM_NAMES = ("system", "system_prompt", "system_message", "context", "passage")
_CONVERSATION_NAMES = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "chosen")
# What a row says about itself keeps its meaning when its columns are mapped.
_KEPT = ("tools", "functions", "unmask", "label", "kto_tag")
_MOST_COLUMNS_SHOWN, _LONGEST_NAME_SHOWN = 20, 40
_MOST_WORDS_OF_A_NAME = 5


def check_columns(row: Row, columns: Mapping[str, str]) -> None:
    """Sees that the first row of a dataset has the columns that dataset_columns names.

    Raises:
        InputError: naming those that it lacks, and those that it has.
    """
    missing = [column for column in columns.values() if column not in row.values]
    if missing:
        raise InputError(
            f"{row.place}: has no {', '.join(map(repr, missing))}, which dataset_columns names; "
            f"it has {columns_in_words(row.values)}"
        )


def with_columns(rows: Iterable[Row], columns: Mapping[str, str]) -> Iterator[Row]:
    """Gives the rows with the fields that `columns` (field -> column) takes from them; other columns are left out.

    A column that a row lacks is null in it.
    """
    for row in rows:
        kept = {name: row.values[name] for name in _KEPT if name in row.values and name not in columns}
        yield Row(row.place, {field: row.values.get(column) for field, column in columns.items()} | kept)


def mapping_for(values: Mapping[str, Any]) -> str | None:
    """The dataset_columns that fit a row, as "user=question,assistant=answer"; None where no names suggest one."""
    by_name = {name.lower(): name for name in values if isinstance(name, str)}
    for wanted in _CONVERSATION_NAMES:
        field = _conversation_field(values.get(by_name.get(wanted, "")))
        if field:
            return f"{field}={_escaped(by_name[wanted])}"
    question, answer, system = (
        next((by_name[name] for name in names if name in by_name and _is_text(values[by_name[name]])), None)
        for names in (_QUESTION_NAMES, _ANSWER_NAMES, _SYSTEM_NAMES)
    )
    if question is None or answer is None:
        return None
    fields = {"user": question, "assistant": answer} | ({"system": system} if system else {})
    return ",".join(f"{field}={_escaped(column)}" for field, column in fields.items())


def columns_in_words(values: Mapping[str, Any]) -> str:
    """The names of a row's columns for a message; where they read like a row's content, that the header is missing."""
    if looks_like_content(values):
        return "columns whose names read like content; if it is a CSV file, its first line must name the columns"
    names = [repr(name if len(name) <= _LONGEST_NAME_SHOWN else f"{name[:_LONGEST_NAME_SHOWN]}...") for name in values]
    more = len(names) - _MOST_COLUMNS_SHOWN
    shown = ", ".join(names[:_MOST_COLUMNS_SHOWN]) or "no field"
    return f"{shown} and {more} more" if more > 0 else shown


def looks_like_content(values: Mapping[str, Any]) -> bool:
    """Whether the names of the columns are rather a row of a table without a header."""
    return any(
        not name.strip()
        or len(name) > 2 * _LONGEST_NAME_SHOWN
        or "\n" in name
        or len(name.split()) > _MOST_WORDS_OF_A_NAME
        or name.rstrip().endswith(("?", ".", "!"))
        or name.strip().replace(".", "", 1).isdecimal()
        for name in values
    )


def _conversation_field(value: Any) -> str | None:
    if not isinstance(value, list) or not value or not isinstance(value[0], Mapping):
        return None
    return "messages" if "role" in value[0] else "conversations" if "from" in value[0] else None


def _is_text(value: Any) -> bool:
    # A null says nothing about a column's type.
    return value is None or isinstance(value, str)


def _escaped(column: str) -> str:
    return column.replace(",", "\\,")
