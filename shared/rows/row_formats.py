"""The formats of rows, told apart by their fields, and the conversation in each."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kfp_osft.shared.reporting.errors import InputError, kind_of
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.columns import columns_in_words, looks_like_content, mapping_for
from kfp_osft.shared.rows.files import Row
from kfp_osft.shared.rows.messages import (
    PRETRAINING_ROLE,
    Conversation,
    Problems,
    Warnings,
    check_messages,
    is_plain,
    without_pretraining_role,
)
from kfp_osft.shared.rows.normalized import normalized_message, normalized_tools, parsed_json, truth_of
from kfp_osft.shared.rows.rendered import is_rendered, without_end

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
    # LLaMA-Factory: the value is the call, as JSON.
    "function_call": "assistant",
}
#: Fields that make a row a comparison of answers (TRL, LLaMA-Factory, OpenAI), which nobody here learns from.
PREFERENCE_FIELDS = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
#: What says of a row whether its answer is a good one (TRL's KTO, LLaMA-Factory).
LABEL_FIELDS = ("label", "kto_tag")

Messages = list[dict[str, Any]]


class RowFormat:
    """The format of all rows of a dataset, which is that of its first row."""

    def __init__(self) -> None:
        self.name: str | None = None

    def check(self, row: Row) -> str:
        """Gives the row's format, and logs the first one.

        Raises:
            InputError: what format_of_row raises; another format than the rows before.
        """
        found = format_of_row(row)
        if self.name is None:
            self.name = found
            log(f"Format of the rows: {found}")
        elif found != self.name:
            raise InputError(
                f"{row.place}: has the format {found}, the rows before it are {self.name}; a dataset holds one format"
            )
        return found


def conversations(
    rows: Iterable[Row],
    unmask_messages: bool,
    problems: Problems,
    warnings: Warnings,
    left_out: Warnings | None = None,
    eos_token: str | None = None,
    row_format: RowFormat | None = None,
) -> Iterator[Conversation]:
    """Gives the rows' conversations, all of the format of the first row, and logs that format.

    Args:
        rows: of any of FORMATS.
        unmask_messages: all turns but the system's are learnt; a row's own `unmask` says so for that row.
        problems: takes what is wrong with a row; such a row is passed over.
        warnings: takes what is changed in a row.
        left_out: takes the rows of which nothing is to be learnt, as they say themselves.
        eos_token: the tokenizer's, which no answer has to bring along.
        row_format: where these rows are a piece of a dataset, what the pieces before were of.
    """
    row_format = row_format or RowFormat()
    left_out = left_out or Warnings()
    for row in rows:
        try:
            found = row_format.check(row)
            conversation = _conversation(row, found, unmask_messages, warnings, left_out, eos_token)
            if conversation:
                yield conversation
        except InputError as error:
            problems.add(str(error))


def format_of_row(row: Row) -> str:
    """The name in FORMATS of the one format whose fields the row has; a field that is null counts as missing.

    Raises:
        InputError: naming the row: fields of none, or of more than one; a comparison of answers.
    """
    place, values = row
    for fields in PREFERENCE_FIELDS:
        if all(values.get(field) is not None for field in fields):
            raise InputError(_is_preference(row, fields))
    found = []
    for name, (fields, _) in FORMATS.items():
        for field in fields:
            if values.get(field) is None:
                break
        else:
            found.append(name)
    # With its fields there and one of them null, the format is clear, and its own check names the field.
    found = found or [name for name, (fields, _) in FORMATS.items() if all(field in values for field in fields)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{place}: has the fields of more than one format ({'; '.join(found)}); keep those of one, "
            f"or choose with dataset_columns, as {_choice(found[0])}"
        )
    if all(field in values for field in PROCESSED_FIELDS):
        raise InputError(
            f"{place}: holds tokens already (input_ids, labels): set training_use_processed_dataset to train on them"
        )
    mapping = mapping_for(values)
    if mapping and not looks_like_content(values):
        raise InputError(
            f"{place}: has no known format; it has {columns_in_words(values)}; "
            f'set dataset_columns="{mapping}" if that is what they mean'
        )
    raise InputError(
        f"{place}: has no known format; it has {columns_in_words(values)}; known are {'; '.join(FORMATS)}; "
        "dataset_columns maps other columns to one of them"
    )


def messages_of(row: Row) -> Messages:
    """What a row's turns are, in the form that chat templates read.

    Raises:
        InputError: naming the row: what format_of_row raises; a field or a message that is not right.
    """
    messages, _ = FORMATS[format_of_row(row)][1](row)
    return messages


def _is_preference(row: Row, fields: tuple[str, ...]) -> str:
    good, bad = fields
    said = f"{row.place}: is a comparison of answers ('{good}' and '{bad}'), of which nothing can be learnt here"
    mapping = mapping_for({name: value for name, value in row.values.items() if name != bad})
    return f'{said}; to train on one side of it set dataset_columns, as "{mapping}"' if mapping else said


def _choice(name: str) -> str:
    return '"' + ",".join(f"{field}={field}" for field in FORMATS[name][0]) + '"'


def _conversation(
    row: Row, row_format: str, unmask_messages: bool, warnings: Warnings, left_out: Warnings, eos_token: str | None
) -> Conversation | None:
    """The row's conversation; None where it says itself that nothing of it is learnt."""
    place, values = row
    messages, given = FORMATS[row_format][1](row)
    tools = normalized_tools(place, values)
    unmask = values.get("unmask")
    if not isinstance(unmask, (bool, int, type(None))):
        raise InputError(f"{place}: 'unmask' is {kind_of(unmask)}, expected true or false")
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
    if bad := _bad_label(row, row_format):
        left_out.add(f"'{bad}' is false, so its answer is one that is not to be learnt", place)
        return None
    for index, message in enumerate(messages):
        _check_text(place, index, message, warnings, eos_token)
    conversation = Conversation(place, messages, frozenset(learnt), given, tools)
    if any(map(conversation.is_learnt, range(len(messages)))):
        return conversation
    if any(message.get("train") is False for message in messages):
        left_out.add("none of its turns is to be learnt (train, weight), or they say nothing", place)
        return None
    raise InputError(
        f"{place}: has no assistant turn to learn from; its roles are {', '.join(sorted(roles)) or 'none'}"
    )


def _bad_label(row: Row, row_format: str) -> str | None:
    """The field that says that the row's answer is a bad one, if one does."""
    for field in LABEL_FIELDS:
        value = row.values.get(field)
        # A number or a text beside a conversation may be a class of anything; KTO's rows are prompt and completion.
        means_it = isinstance(value, bool) or (row_format == _PROMPT_FORMAT and not isinstance(value, float))
        if means_it and truth_of(value) is False:
            return field
    return None


def _check_text(place: str, index: int, message: dict[str, Any], warnings: Warnings, eos_token: str | None) -> None:
    """Sees that a message is text of one turn; takes off an answer's own end; an answer that is blank is not learnt."""
    content = message.get("content") or ""
    if is_rendered(content):
        raise InputError(
            f"{place}: messages[{index}] begins as a text that a chat template has rendered already "
            f"({content.strip()[:30]!r}); give the turns as messages"
        )
    if message["role"] != "assistant":
        return
    if (bare := without_end(content, eos_token)) != content:
        message["content"] = content = bare
        warnings.add("an answer ends in an end-of-turn token of its own, which is taken off", place)
    if (not content or content.isspace()) and not message.get("tool_calls") and message.get("train") is not False:
        message["train"] = False
        warnings.add("an answer is empty or blank; it is not learnt", place)


def _from_messages(row: Row) -> tuple[Messages, int]:
    return _checked(f"{row.place}: messages", _list_of(row, "messages")), 0


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
        if role.lower() == "function_call":
            calls = parsed_json(f"{place}[{index}]: 'value'", value) if isinstance(value, str) else value
            message["tool_calls"], value = calls if isinstance(calls, list) else [calls], None
        messages.append({"role": SHAREGPT_ROLES[role.lower()], "content": value, **message})
    return _checked(place, _with_system(row, messages)), 0


def _from_prompt(row: Row) -> tuple[Messages, int]:
    """TRL's prompt and completion: two texts, or two lists of messages of which the prompt's are not learnt."""
    prompt, completion = (_list_in_text(row.values[field]) for field in ("prompt", "completion"))
    if isinstance(prompt, str) and isinstance(completion, str):
        messages = _with_system(row, [_said("user", prompt), _said("assistant", completion)])
        return _checked(f"{row.place}: prompt, completion", messages), 0
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise InputError(
            f"{row.place}: 'prompt' is {kind_of(prompt)} and 'completion' {kind_of(completion)}, "
            "expected two strings, or two lists of messages"
        )
    prompt = _with_system(row, _checked(f"{row.place}: prompt", prompt))
    completion = _checked(f"{row.place}: completion", completion)
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
            raise InputError(f"{row.place}: history[{index}] is not a pair of question and answer")
        messages += [_said("user", pair[0]), _said("assistant", pair[1])]
    question = "\n".join(text for text in (fields["instruction"], fields["input"]) if text)
    messages = _with_system(row, [*messages, _said("user", question), _said("assistant", fields["output"])])
    return _checked(f"{row.place}: instruction, output", messages), 0


def _from_table(row: Row) -> tuple[Messages, int]:
    """A question and its answer in a column each, as dataset_columns names them."""
    values = row.values
    for field in ("user", "assistant"):
        if not isinstance(values.get(field), str):
            raise InputError(f"{row.place}: '{field}' is {kind_of(values.get(field))}, expected a string")
    answer = _said("assistant", values["assistant"])
    if values.get("reasoning") is not None:
        answer["reasoning_content"] = values["reasoning"]
    messages = _with_system(row, [_said("user", values["user"]), answer])
    return _checked(f"{row.place}: user, assistant", messages), 0


_PROMPT_FORMAT = "prompt and completion"
#: Formats by their name in messages: the fields that make it, and what takes the conversation out of a row.
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Row], tuple[Messages, int]]]] = {
    "messages (chat)": (("messages",), _from_messages),
    "conversations (ShareGPT)": (("conversations",), _from_sharegpt),
    _PROMPT_FORMAT: (("prompt", "completion"), _from_prompt),
    "instruction and output (Alpaca)": (("instruction", "output"), _from_alpaca),
    "user and assistant": (("user", "assistant"), _from_table),
}


def _checked(place: str, messages: Any) -> Messages:
    """The messages in the form that chat templates read."""
    if isinstance(messages, list):
        messages = [
            message.copy() if is_plain(message) else normalized_message(f"{place}[{index}]", message)
            for index, message in enumerate(messages)
        ]
    check_messages(place, messages)
    return messages


def _list_of(row: Row, field: str) -> Any:
    """The field; tabular files have such a list as a string of JSON, and newer versions of `datasets` its items."""
    value = row.values[field]
    if isinstance(value, str):
        value = parsed_json(f"{row.place}: '{field}'", value)
    if isinstance(value, list):
        value = [
            parsed_json(f"{row.place}: {field}[{index}]", each) if isinstance(each, str) and each[:1] == "{" else each
            for index, each in enumerate(value)
        ]
    return value


def _list_in_text(value: Any) -> Any:
    """A list of messages that a table has as a string of JSON; any other text stays what it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "[" and '"role"' in value:
        try:
            found = parsed_json("", value)
        except InputError:
            return value
        if isinstance(found, list) and found and all(isinstance(each, Mapping) and "role" in each for each in found):
            return found
    return value


def _with_system(row: Row, messages: Messages) -> Messages:
    system = row.values.get("system")
    if system in (None, ""):
        return messages
    if messages and messages[0]["role"] == "system":
        raise InputError(f"{row.place}: has a 'system' and a first turn of that role; keep one")
    return [_said("system", system), *messages]


def _said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}
