"""What is in a row: its conversation, checked, and whether one can learn from it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.dataset_files import Row
from kfp_osft.shared.errors import InputError, kind_of

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
        raise InputError(f"{place}: 'messages' is {kind_of(messages)}, expected a list of at least one message")
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
        raise InputError(f"{place} is {kind_of(message)}, expected an object with 'role' and 'content'")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InputError(f"{place}: 'role' is {kind_of(role)}, expected a string as 'user' or 'assistant'")
    for field in ("content", "reasoning_content", "thinking"):
        text = message.get(field)
        if text is None and (field != "content" or role == "assistant" and message.get("tool_calls")):
            continue
        if not isinstance(text, str):
            raise InputError(f"{place}: '{field}' is {kind_of(text)}, expected a string")
        marker = next((marker for marker in MARKERS if marker in text), None)
        if marker:
            raise InputError(f"{place}: '{field}' holds {marker}, which the trainer uses as a mark of its own")
