"""The shape of a conversation: what is left of it when its texts are one character each."""

import re
from typing import Any, NamedTuple

from kfp_osft.shared.chat.chat_template import FIRST_RESERVED
from kfp_osft.shared.rows.messages import REASONING_FIELDS

_TEXTS, _CALLS = ("content", *REASONING_FIELDS), "tool_calls"


class Shape(NamedTuple):
    """A conversation with stand-ins for its texts.

    Attributes:
        messages: the conversation; each stand-in is one character.
        texts: what the stand-ins stand for, in order.
        owners: the index of the message and the field of each stand-in.
    """

    messages: list[dict[str, Any]]
    texts: list[str]
    owners: list[tuple[int, str]]


def shape_of(messages: list[dict[str, Any]], looked_for: re.Pattern[str], with_calls: bool = True) -> Shape:
    """Puts stand-ins for the texts of messages; blanks at their ends and what the template looks for stay.

    Args:
        with_calls: also for the names and arguments of tool calls.
    """
    texts: list[str] = []
    owners: list[tuple[int, str]] = []

    def stand_in(text: str, owner: tuple[int, str]) -> str:
        if text and looked_for.search(text) is None and text.strip() == text:
            texts.append(text)
            owners.append(owner)
            return chr(FIRST_RESERVED + len(texts))
        pieces, begin = [], 0
        for match in looked_for.finditer(text):
            pieces += [text[begin : match.start()], match[0]]
            begin = match.end()
        pieces.append(text[begin:])
        for place in range(0, len(pieces), 2):
            said = pieces[place].strip()
            if said:
                texts.append(said)
                owners.append(owner)
                before, _, behind = pieces[place].partition(said)
                pieces[place] = before + chr(FIRST_RESERVED + len(texts)) + behind
        return "".join(pieces)

    def each_text(value: Any, owner: tuple[int, str]) -> Any:
        if isinstance(value, str):
            return stand_in(value, owner)
        if isinstance(value, dict):
            return {key: each_text(part, owner) for key, part in value.items()}
        if isinstance(value, list):
            return [each_text(part, owner) for part in value]
        return value

    def called(call: Any, owner: tuple[int, str]) -> Any:
        if not isinstance(call, dict):
            return call
        changed = dict(call)
        if isinstance(call.get("function"), dict):
            changed["function"] = called(call["function"], owner)
            return changed
        for key in ("name", "arguments"):
            if key in call:
                changed[key] = each_text(call[key], owner)
        return changed

    shape = []
    for index, message in enumerate(messages):
        if len(message) == 2 and isinstance(content := message.get("content"), str):
            shape.append({"role": message.get("role"), "content": stand_in(content, (index, "content"))})
            continue
        changed = dict(message)
        same: dict[str, str] = {}
        for field in _TEXTS:
            text = message.get(field)
            if isinstance(text, str):
                # Reasoning stands under two names at once.
                if field not in REASONING_FIELDS or text not in same:
                    same[text] = stand_in(text, (index, field))
                changed[field] = same[text]
        if with_calls and isinstance(message.get(_CALLS), list):
            changed[_CALLS] = [called(call, (index, _CALLS)) for call in message[_CALLS]]
        shape.append(changed)
    return Shape(shape, texts, owners)
