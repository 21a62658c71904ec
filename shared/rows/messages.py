"""What may be wrong with a row's conversation, and how many rows share a fault."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp_osft.shared.reporting.errors import InputError, kind_of

#: instructlab-training's marks around what is learnt; in a row's own text they would be taken for marks.
CONTENT_BEGIN, CONTENT_END = "<|UNMASK_BEGIN|>", "<|UNMASK_END|>"
REASONING_BEGIN, REASONING_END = "<|UNMASK_REASONING_BEGIN|>", "<|UNMASK_REASONING_END|>"
MASK = "<|MASK|>"
MARKERS = (CONTENT_BEGIN, CONTENT_END, REASONING_BEGIN, REASONING_END, MASK)
_ANY_MARKER = re.compile("|".join(map(re.escape, MARKERS)))

#: instructlab's legacy role: one message whose text holds a whole conversation, in either of two forms.
PRETRAINING_ROLE = "pretraining"
_LEGACY_TURN = re.compile(r"<\|(user|assistant)\|>\n([^<]+)")
_GRANITE_TURN = re.compile(r"<\|start_of_role\|>(user|assistant)<\|end_of_role\|>\n([^<]+)")

#: Texts of a message in which an assistant thinks aloud: transformers' three names.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")

_MOST_SHOWN = 10
_PLAIN_ROLES = ("system", "user", "assistant", "tool", "developer")
#: No tool call needs more; templates and JSON libraries fail at about a thousand.
_DEEPEST = 100
_NUMBER = re.compile(r"\d[\d,]*")


class Conversation(NamedTuple):
    """A checked conversation.

    Attributes:
        place: where it stands, as "train.jsonl, row 3".
        messages: objects with `role`, `content` and what else the row has; `train` says for one of them whether it is
            learnt.
        learnt_roles: whose turns are learnt.
        given: so many messages at the front are a prompt and not learnt.
        tools: what the chat template is given as `tools`, each {"type": "function", "function": {...}}; or None.
    """

    place: str
    messages: list[dict[str, Any]]
    learnt_roles: frozenset[str]
    given: int = 0
    tools: list[dict[str, Any]] | None = None

    def is_learnt(self, index: int) -> bool:
        """Whether the message of that index is learnt."""
        message = self.messages[index]
        return message.get("train", index >= self.given and message["role"] in self.learnt_roles)


def check_messages(place: str, messages: Any) -> None:
    """Sees that a list of messages is one that a chat template can be given.

    Raises:
        InputError: naming the place: an empty list or none, a message that is no object, without a role, with null or
            non-string content (null is allowed beside tool_calls), with one of the trainer's markers.
    """
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{place} is {kind_of(messages)}, expected a list of at least one message")
    for index, message in enumerate(messages):
        if not is_plain(message):
            _check_message(f"{place}[{index}]", message)


def is_plain(message: Any) -> bool:
    """Whether a message is as nearly all are: a known role and a text without marks, which is in order as it is."""
    return (
        isinstance(message, dict)
        and len(message) == 2
        and message.get("role") in _PLAIN_ROLES
        and isinstance(content := message.get("content"), str)
        and "<|" not in content
    )


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
    """Gathers what is wrong with rows, to report each kind of it once, with the count and the first rows."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, Places]] = {}
        self._more = 0

    def add(self, problem: str) -> None:
        """Adds one, as "place: what is wrong". Those that differ in their numbers only are of one kind."""
        place, _, sentence = problem.partition(": ")
        kind = _NUMBER.sub("0", sentence)
        if kind not in self._kinds:
            if len(self._kinds) == _MOST_SHOWN:
                self._more += 1
                return
            self._kinds[kind] = (problem, Places())
        self._kinds[kind][1].add(place)

    def raise_if_any(self) -> None:
        """Raises an InputError with a line for each of the first kinds if there were any."""
        if not self._kinds:
            return
        lines = [
            problem if places.count == 1 else f"{problem} ({places.count:,} such rows: {places})"
            for problem, places in self._kinds.values()
        ]
        if self._more:
            lines.append(f"and {self._more:,} rows with other problems")
        raise InputError("\n".join(lines))


class Places:
    """Counts rows and remembers where the first ones stand."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count = 0

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.first) < _MOST_SHOWN:
            self.first.append(place)

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return "; ".join(self.first) + (f"; and {more:,} more" if more else "")


class Warnings:
    """Sentences about rows that are trained on although something about them is odd, with their rows."""

    def __init__(self) -> None:
        self._places: dict[str, Places] = {}

    def add(self, sentence: str, place: str) -> None:
        self._places.setdefault(sentence, Places()).add(place)

    @property
    def count(self) -> int:
        """Sentences, each as often as there are rows with it."""
        return sum(places.count for places in self._places.values())

    def lines(self) -> list[str]:
        """A line for each sentence: the count, the sentence, the first rows."""
        return [
            f"{places.count:,} row{'s' * (places.count > 1)}: {sentence} ({places})"
            for sentence, places in self._places.items()
        ]


def _check_message(place: str, message: Any) -> None:
    if not isinstance(message, Mapping):
        raise InputError(f"{place} is {kind_of(message)}, expected an object with 'role' and 'content'")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InputError(f"{place}: 'role' is {kind_of(role)}, expected a string as 'user' or 'assistant'")
    for field in ("content", *REASONING_FIELDS):
        text = message.get(field)
        if text is None and (field != "content" or (role == "assistant" and message.get("tool_calls"))):
            continue
        if not isinstance(text, str):
            raise InputError(f"{place}: '{field}' is {kind_of(text)}, expected a string")
    for field, value in message.items():
        if value is None:
            continue
        # Templates render other fields as well, tool calls above all.
        text = value if isinstance(value, str) else json_text(f"{place}: '{field}'", value)
        if "<|" in text and (marker := _ANY_MARKER.search(text)):
            raise InputError(f"{place}: '{field}' holds {marker[0]}, which the trainer uses as a mark of its own")


def json_text(what: str, value: Any) -> str:
    """The JSON of a value that a chat template is to render.

    Raises:
        InputError: beginning with `what`: it holds something that JSON has no form for, or is nested too deeply.
    """
    pending = [(value, 1)]
    while pending:
        part, depth = pending.pop()
        if depth > _DEEPEST:
            raise InputError(f"{what} is nested more than {_DEEPEST} levels deep")
        if isinstance(part, dict):
            if not all(isinstance(key, str) for key in part):
                raise InputError(f"{what} holds an object with a name that is not a string")
            pending += [(each, depth + 1) for each in part.values()]
        elif isinstance(part, list):
            pending += [(each, depth + 1) for each in part]
        elif part is not None and not isinstance(part, (str, int, float)):
            raise InputError(f"{what} holds {kind_of(part)}, which JSON has no form for; write it as a string")
    return json.dumps(value, ensure_ascii=False)
