"""Conversations to token ids and loss labels: what the learnt turns say, with the ends of these turns.

The ids are those of the plainly rendered conversation. Where the learnt turns stand in its text is turns.py's work;
here these places become tokens.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kfp_osft.shared.chat.chat_template import ChatTemplate, has_reserved
from kfp_osft.shared.chat.encoding import PartEncoder
from kfp_osft.shared.chat.limits import CHARACTERS, LimitReached, limited
from kfp_osft.shared.chat.turns import Found, TurnFinder
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.messages import REASONING_FIELDS, Conversation, Problems, Warnings

#: Label of a token without loss (torch.nn.CrossEntropyLoss's ignore_index).
NO_LOSS = -100

# What is encoded at once: enough that a call costs nothing, and little memory where rows are long.
_ROWS_AT_ONCE = 256
_CHARACTERS_AT_ONCE = 500_000
# So many rows are compared with what transformers makes of them, beside each that is the first of its kind.
_ROWS_COMPARED = 16


class Sample(NamedTuple):
    """A tokenized conversation.

    Attributes:
        input_ids: its token ids.
        learnt: the tokens with loss as ranges of positions, begin and end (exclusive), in order and not touching.
    """

    input_ids: list[int]
    learnt: list[tuple[int, int]]

    @property
    def labels(self) -> list[int]:
        """As long as the ids: the token where it has loss, else NO_LOSS."""
        labels = [NO_LOSS] * len(self.input_ids)
        for begin, end in self.learnt:
            labels[begin:end] = self.input_ids[begin:end]
        return labels

    @property
    def num_loss_counted_tokens(self) -> int:
        """Tokens with loss as mini-trainer counts them: a causal model predicts nothing for the first token."""
        return sum(end - max(begin, 1) for begin, end in self.learnt)


class ChatTokenizer:
    """Applies a model's chat template and labels what is learnt.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        warnings: takes what is odd about rows that are tokenized nevertheless.

    Raises:
        InputError: the tokenizer has no chat template, or one that is not a template.
    """

    def __init__(self, tokenizer: Any, warnings: Warnings | None = None) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"training_base_model={tokenizer.name_or_path}: its tokenizer has no chat template; "
                "give an instruction-tuned model, or add chat_template.jinja to the model folder"
            )
        self.warnings = warnings or Warnings()
        self._tokenizer = tokenizer
        self._variables = dict(tokenizer.special_tokens_map)
        # A tokenizer may have one of its own for rows with tools.
        self._finders: dict[str, tuple[ChatTemplate, TurnFinder]] = {}
        self._without_tools, self._with_tools = self._finder(None), self._finder([{}])
        self._encoder = PartEncoder(tokenizer)
        self._compared = 0
        self._seen: set[int] = set()

    def samples(
        self, conversations: Iterable[Conversation], problems: Problems | None = None
    ) -> Iterator[tuple[str, Sample]]:
        """Gives each conversation's place and sample, in order.

        Args:
            conversations: checked ones; they are read a batch ahead.
            problems: takes the conversations that cannot be tokenized, which are passed over; without it the first
                raises.

        Raises:
            InputError: the template refuses a conversation, drops or changes a turn, or cannot be told what it made of
                a turn; naming the row.
        """
        for batch in _batches(conversations):
            rendered = self._rendered_batch(batch, problems)
            for (place, _), made in zip(rendered, self._encoder.encode([found for _, found in rendered]), strict=True):
                if not isinstance(made, InputError):
                    yield place, Sample(made.ids, made.ranges)
                    continue
                error = InputError(f"{place}: {made}")
                if problems is None:
                    raise error
                problems.add(str(error))

    def _rendered_batch(self, batch: list[Conversation], problems: Problems | None) -> list[tuple[str, Found]]:
        rendered, place = [], ""
        try:
            with limited():
                for conversation in batch:
                    place = conversation.place
                    try:
                        rendered.append(self._rendered(conversation))
                    except InputError as error:
                        if problems is None:
                            raise
                        problems.add(str(error))
        # No problem of this row alone: the next would take as long.
        except LimitReached as limit:
            raise InputError(f"{place}: the model's chat template {limit} for it and the rows before it") from None
        return rendered

    def _rendered(self, conversation: Conversation) -> tuple[str, Found]:
        place, tools = conversation.place, conversation.tools
        learnt = [conversation.is_learnt(index) for index in range(len(conversation.messages))]
        failure = None
        for number, messages in enumerate(_spellings([_for_template(message) for message in conversation.messages])):
            try:
                return self._found(place, messages, learnt, tools, number == 0)
            except InputError as error:
                failure = failure or error
        raise InputError(f"{place}: {failure}") from None

    def _found(
        self, place: str, messages: list[dict[str, Any]], learnt: list[bool], tools: Any, compares: bool
    ) -> tuple[str, Found]:
        if any(has_reserved(other) for other in _other_texts(messages)):
            raise InputError("holds a character of a private use plane (U+F0000 and above) outside its texts")
        template, finder = self._without_tools if tools is None else self._with_tools
        text = _text(template, messages, tools)
        found = finder.find(messages, learnt, tools, text)
        layout = found.layout
        if compares and (self._compared < _ROWS_COMPARED or id(layout) not in self._seen):
            self._compared += 1
            self._seen.add(id(layout))
            if self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False) != text:
                raise InputError("the model's chat template writes another text with each call")
        for remark in layout.remarks:
            self.warnings.add(remark, place)
        return place, found

    def _finder(self, tools: Any) -> tuple[ChatTemplate, TurnFinder]:
        try:
            source = self._tokenizer.get_chat_template(None, tools)
            if source not in self._finders:
                with limited():
                    template = ChatTemplate(source, self._variables)
                self._finders[source] = template, TurnFinder(template, self._tokenizer.eos_token)
        # Of transformers and Jinja, and of Python where the template is nested too deeply.
        except (Exception, LimitReached) as error:
            raise InputError(
                f"training_base_model={self._tokenizer.name_or_path}: its chat template cannot be read: {error}"
            ) from None
        return self._finders[source]


def _text(template: ChatTemplate, messages: list[dict[str, Any]], tools: Any) -> str:
    try:
        text = template.render(messages, tools)
        # JSON can spell half of a surrogate pair ("\\ud83d"), which no tokenizer takes.
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"is not text: {error}") from None
    except MemoryError:
        raise
    # Templates refuse roles and orders that they do not know, each in a way of its own, and may be wrong.
    except Exception as error:
        raise InputError(f"the model's chat template rejects this conversation: {error}") from None
    if len(text) > CHARACTERS:
        raise LimitReached(f"writes {len(text):,} characters, more than {CHARACTERS:,},")
    return text


def _spellings(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The messages, and then in other spellings of the same, for templates that refuse the first.

    A tool call without content has none, null or an empty text; arguments are an object, or the text of its JSON.
    """
    yield messages
    calling = [message for message in messages if message.get("tool_calls")]
    if not calling:
        return
    without_content = any("content" not in message for message in calling)
    for contents in ({}, {"content": None}, {"content": ""}) if without_content else ({},):
        for as_text in (False, True):
            if contents or as_text:
                yield [
                    _spelt(message, contents, as_text) if message.get("tool_calls") else message for message in messages
                ]


def _spelt(message: dict[str, Any], contents: dict[str, Any], as_text: bool) -> dict[str, Any]:
    calls = message["tool_calls"]
    if as_text and isinstance(calls, list):
        calls = [_with_text_arguments(call) for call in calls]
    return {**contents, **message, "tool_calls": calls}


def _with_text_arguments(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with_text_arguments(call["function"])}
    arguments = call.get("arguments")
    return call if isinstance(arguments, str) else {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """A message as transformers 5 gives it to a template, under each version: no nulls, reasoning under its names."""
    if len(message) == 2 and message.get("content") is not None:
        return message
    kept = {key: value for key, value in message.items() if value is not None and key != "train"}
    reasoning = next((kept[field] for field in REASONING_FIELDS if field in kept), None)
    if reasoning is not None:
        kept = {"thinking": reasoning, **kept, "reasoning_content": reasoning}
    return kept


def _other_texts(messages: list[dict[str, Any]]) -> Iterator[str]:
    """What no stand-in stands for: names of fields, roles, ids."""
    for message in messages:
        yield message["role"]
        if len(message) > 2:
            rest = {key: value for key, value in message.items() if key not in ("content", *REASONING_FIELDS)}
            yield json.dumps(rest, ensure_ascii=False)


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    batch: list[Conversation] = []
    characters = 0
    for conversation in conversations:
        batch.append(conversation)
        characters += sum(len(message.get("content") or "") for message in conversation.messages)
        if len(batch) == _ROWS_AT_ONCE or characters > _CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
