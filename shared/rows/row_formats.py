"""The formats of rows, told apart by their fields, and the conversation in each."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kfp_osft.shared.reporting.errors import InputError, kind_of
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import (
    PRETRAINING_ROLE,
    Conversation,
    Problems,
    Warnings,
    check_messages,
    without_pretraining_role,
)

#: Fields of rows that hold tokens already (training_use_processed_dataset).
PROCESSED_FIELDS = ("input_ids", "labels")

#: ShareGPT's names of the roles, as Axolotl and LLaMA-Factory take them.
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}

Messages = list[dict[str, Any]]


class RowFormat:
    """The format of all rows of a dataset, which is that of its first row."""

    def __init__(self) -> None:
        self.name: str | None = None

    def check(self, row: Row) -> str:
        """Gives the row's format, and logs the first one.

        Raises:
            InputError: what format_of raises; another format than the rows before.
        """
        found = format_of(row)
        if self.name is None:
            self.name = found
            log(f"Format of the rows: {found}")
        elif found != self.name:
            raise InputError(
                f"{row.place}: is of the format {found}, the rows before it are {self.name}; a dataset holds one format"
            )
        return found


def conversations(
    rows: Iterable[Row],
    unmask_messages: bool,
    problems: Problems,
    warnings: Warnings,
    row_format: RowFormat | None = None,
) -> Iterator[Conversation]:
    """Gives the rows' conversations, all of the format of the first row, and tells that format in the log.

    Args:
        rows: of any of FORMATS.
        unmask_messages: all turns but the system's are learnt; a row's own `unmask` says so for that row.
        problems: takes what is wrong with a row; such a row is passed over.
        warnings: takes what a row holds and the training does not heed.
        row_format: where these rows are a piece of a dataset, what the pieces before were of.
    """
    row_format = row_format or RowFormat()
    for row in rows:
        try:
            yield _conversation(row, row_format.check(row), unmask_messages, warnings)
        except InputError as error:
            problems.add(str(error))


def format_of(row: Row) -> str:
    """The name in FORMATS of the one format whose fields the row has; a field that is null counts as missing.

    Raises:
        InputError: naming the row: fields of none, or of more than one.
    """
    place, values = row
    found = []
    for name, (fields, _) in FORMATS.items():
        for field in fields:
            if values.get(field) is None:
                break
        else:
            found.append(name)
    # With its fields there and one of them null, the format is clear, and its own check tells the field.
    found = found or [name for name, (fields, _) in FORMATS.items() if all(field in values for field in fields)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{place}: has the fields of more than one format ({'; '.join(found)}); keep those of one")
    if all(field in values for field in PROCESSED_FIELDS):
        raise InputError(
            f"{place}: holds tokens already (input_ids, labels): set training_use_processed_dataset to train on them"
        )
    raise InputError(
        f"{place}: is of no known format; it has {', '.join(map(repr, values)) or 'no field'}; "
        f"known are {'; '.join(FORMATS)}"
    )


def _conversation(row: Row, row_format: str, unmask_messages: bool, warnings: Warnings) -> Conversation:
    place, values = row
    messages, given = FORMATS[row_format][1](row)
    unmask = values.get("unmask")
    if not isinstance(unmask, (bool, int, type(None))):
        raise InputError(f"{place}: 'unmask' is {kind_of(unmask)}, expected true or false")
    if values.get("tools"):
        warnings.add("'tools' is not put into the text, training_hub gives it to no template", place)
    if any(message.get("weight") == 0 for message in messages):
        warnings.add("a message's 'weight' of 0 is not heeded, its text is learnt as any other", place)
    roles = {message["role"] for message in messages}
    # instructlab-training: `unmask` and the pretraining role open all roles but the system's.
    unmask = unmask_messages or unmask or PRETRAINING_ROLE in roles
    if PRETRAINING_ROLE in roles:
        messages = without_pretraining_role(messages)
        roles = {message["role"] for message in messages}
    if unmask:
        given, learnt = 0, roles - {"system"}
    else:
        learnt = roles & {"assistant"}
        if given and not any(message["role"] == "assistant" for message in messages[given:]):
            learnt = set()
    if not learnt:
        raise InputError(
            f"{place}: has no assistant turn to learn from; its roles are {', '.join(sorted(roles)) or 'none'}"
        )
    return Conversation(place, messages, frozenset(learnt), given)


def _from_messages(row: Row) -> tuple[Messages, int]:
    messages = _list_of(row, "messages")
    check_messages(f"{row.place}: messages", messages)
    return messages, 0


def _from_sharegpt(row: Row) -> tuple[Messages, int]:
    """Turns of `from` and `value`, or of `role` and `content`; a row's `system` goes in front."""
    turns = _list_of(row, "conversations")
    place = f"{row.place}: conversations"
    if not isinstance(turns, list):
        raise InputError(f"{place} is {kind_of(turns)}, expected a list of at least one message")
    messages = []
    for index, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise InputError(f"{place}[{index}] is {kind_of(turn)}, expected an object with 'from' and 'value'")
        field = "from" if turn.get("from") is not None else "role"
        role = turn.get(field)
        if not isinstance(role, str) or role.lower() not in SHAREGPT_ROLES:
            raise InputError(f"{place}[{index}]: '{field}' is {role!r}, expected one of {', '.join(SHAREGPT_ROLES)}")
        value = turn.get("value") if turn.get("value") is not None else turn.get("content")
        message = {key: text for key, text in turn.items() if key not in ("from", "value", "role", "content")}
        messages.append({"role": SHAREGPT_ROLES[role.lower()], "content": value, **message})
    messages = _with_system(row, messages)
    check_messages(place, messages)
    return messages, 0


def _from_prompt(row: Row) -> tuple[Messages, int]:
    """TRL's prompt and completion: two texts, or two lists of messages of which the prompt's are not learnt."""
    prompt, completion = row.values["prompt"], row.values["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        messages = _with_system(row, [_said("user", prompt), _said("assistant", completion)])
        check_messages(f"{row.place}: prompt, completion", messages)
        return messages, 0
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise InputError(
            f"{row.place}: 'prompt' is {kind_of(prompt)} and 'completion' {kind_of(completion)}, "
            "expected two strings, or two lists of messages"
        )
    check_messages(f"{row.place}: prompt", prompt)
    check_messages(f"{row.place}: completion", completion)
    prompt = _with_system(row, prompt)
    return prompt + completion, len(prompt)


def _from_alpaca(row: Row) -> tuple[Messages, int]:
    """The question is `instruction`, with `input` on the next line where there is one (LLaMA-Factory's way).

    `system` goes in front, and `history`, pairs of question and answer, before the question.
    """
    values = row.values
    fields = {field: values.get(field) for field in ("instruction", "input", "output")}
    for field, text in fields.items():
        if not isinstance(text, str) and (text is not None or field != "input"):
            raise InputError(f"{row.place}: '{field}' is {kind_of(text)}, expected a string")
    messages = []
    for index, pair in enumerate(values.get("history") or []):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InputError(f"{row.place}: history[{index}] is no pair of question and answer")
        messages += [_said("user", pair[0]), _said("assistant", pair[1])]
    question = "\n".join(text for text in (fields["instruction"], fields["input"]) if text)
    messages = _with_system(row, [*messages, _said("user", question), _said("assistant", fields["output"])])
    check_messages(f"{row.place}: instruction, output", messages)
    return messages, 0


#: Formats by their name in messages: the fields that make it, and what takes the conversation out of a row.
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Row], tuple[Messages, int]]]] = {
    "messages (chat)": (("messages",), _from_messages),
    "conversations (ShareGPT)": (("conversations",), _from_sharegpt),
    "prompt and completion": (("prompt", "completion"), _from_prompt),
    "instruction and output (Alpaca)": (("instruction", "output"), _from_alpaca),
}


def _list_of(row: Row, field: str) -> Any:
    """The field; tabular files have such a list as a string of JSON."""
    value = row.values[field]
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise InputError(f"{row.place}: '{field}' is a string that is not JSON") from None


def _with_system(row: Row, messages: Messages) -> Messages:
    system = row.values.get("system")
    if system in (None, ""):
        return messages
    if messages and messages[0]["role"] == "system":
        raise InputError(f"{row.place}: has a 'system' and a first turn of that role; keep one")
    return [_said("system", system), *messages]


def _said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}
