"""Conversations to token ids and loss labels, the same that training_hub.osft makes of them.

The rule is instructlab-training's (data_process.unmask_messages, 0.16): what is learnt is wrapped in marker tokens,
the model's chat template is applied, and the marks are taken out again. Here the template renders a text first and
many texts are encoded at once, which gives the same ids in a third of the time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kfp_osft.shared.dataset_rows import (
    CONTENT_BEGIN,
    CONTENT_END,
    MARKERS,
    REASONING_BEGIN,
    REASONING_END,
)
from kfp_osft.shared.errors import InputError

#: Label of a token without loss (torch.nn.CrossEntropyLoss's ignore_index).
NO_LOSS = -100

_REASONING_FIELDS = ("reasoning_content", "thinking")


class Conversation(NamedTuple):
    """A checked conversation, where it stands, and the roles whose turns are learnt."""

    place: str
    messages: list[dict[str, Any]]
    learnt_roles: frozenset[str]


class Sample(NamedTuple):
    """Token ids and labels of the same length; a label is the token itself or NO_LOSS."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_loss_counted_tokens(self) -> int:
        """Tokens with loss as mini-trainer counts them: a causal model predicts nothing for the first token."""
        return sum(label != NO_LOSS for label in self.labels[1:])


class _Region(NamedTuple):
    begin: int
    end: int
    reasoning: bool


class ChatTokenizer:
    """Applies a model's chat template and labels what is learnt.

    Args:
        tokenizer: a transformers tokenizer with a chat template; the marker tokens are added to it.

    Raises:
        InputError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise InputError(f"training_base_model={tokenizer.name_or_path}: its tokenizer has no chat template; "
                             "give an instruction-tuned model, or add chat_template.jinja to the model folder")
        tokenizer.add_tokens(list(MARKERS), special_tokens=True)
        self._tokenizer = tokenizer
        ids = tokenizer.convert_tokens_to_ids
        self._content_begin, self._content_end = ids(CONTENT_BEGIN), ids(CONTENT_END)
        self._reasoning_begin, self._reasoning_end = ids(REASONING_BEGIN), ids(REASONING_END)
        self._marks = {self._content_begin, self._content_end, self._reasoning_begin, self._reasoning_end}
        self._eos = None
        if tokenizer.eos_token is not None:
            self._eos = tokenizer.encode(tokenizer.eos_token, add_special_tokens=False)[0]

    def samples(self, conversations: Sequence[Conversation]) -> list[Sample]:
        """Labels many conversations; texts are encoded together, so some hundred at a time are quickest.

        Raises:
            InputError: the template refuses a conversation, or marks got lost in it; naming the row.
        """
        wrapped = [_wrap(conversation) for conversation in conversations]
        texts = [self._render(conversation.place, messages)
                 for conversation, messages in zip(conversations, wrapped, strict=True)]
        encoded = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self._label(conversation, messages, ids)
                for conversation, messages, ids in zip(conversations, wrapped, encoded, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return self._tokenizer.decode(ids)

    def _render(self, place: str, messages: list[dict[str, Any]]) -> str:
        import jinja2

        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
            # JSON can spell half of a surrogate pair ("\\ud83d"), which no tokenizer takes.
            text.encode()
            return text
        except UnicodeEncodeError as error:
            raise InputError(f"{place}: is no text: {error}") from None
        # Templates refuse roles and orders that they do not know, each in a way of its own.
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"{place}: the model's chat template does not take this conversation: {error}") from None

    def _label(self, conversation: Conversation, messages: list[dict[str, Any]], ids: list[int]) -> Sample:
        learnt: set[int] = set()
        for begin, end, is_assistant in _spans(self._regions(conversation.place, ids), messages,
                                               conversation.learnt_roles):
            learnt.update(range(begin + 1, end))
            if is_assistant:
                learnt.update(self._through_end_of_turn(ids, end + 1))
        kept = [(token, index in learnt) for index, token in enumerate(ids) if token not in self._marks]
        return Sample([token for token, _ in kept], [token if has_loss else NO_LOSS for token, has_loss in kept])

    def _regions(self, place: str, ids: list[int]) -> list[_Region]:
        """Pairs of marks in the order in which they begin."""
        regions: list[_Region] = []
        position = 0
        while position < len(ids):
            token = ids[position]
            if token in (self._content_begin, self._reasoning_begin):
                reasoning = token == self._reasoning_begin
                end_mark = self._reasoning_end if reasoning else self._content_end
                try:
                    end = ids.index(end_mark, position)
                except ValueError:
                    raise InputError(f"{place}: the model's chat template cuts a message short") from None
                if token in ids[position + 1:end]:
                    raise InputError(f"{place}: the model's chat template puts a message into another")
                regions.append(_Region(position, end, reasoning))
                position = end
            elif token in self._marks:
                raise InputError(f"{place}: the model's chat template cuts off the beginning of a message")
            position += 1
        return regions

    def _through_end_of_turn(self, ids: list[int], start: int) -> range:
        """What follows an assistant's content up to the end-of-sequence token, which is learnt with it."""
        for position in range(start, len(ids)):
            if ids[position] == self._eos:
                return range(start, position + 1)
            if ids[position] in (self._content_begin, self._reasoning_begin):
                break
        return range(0)


def _wrap(conversation: Conversation) -> list[dict[str, Any]]:
    """Puts marks around the learnt texts; other fields first, as the original does."""
    wrapped = []
    for message in conversation.messages:
        if message["role"] in conversation.learnt_roles:
            texts = {"content": (CONTENT_BEGIN, CONTENT_END)} | dict.fromkeys(
                _REASONING_FIELDS, (REASONING_BEGIN, REASONING_END))
            marked = {key: value for key, value in message.items() if key not in texts}
            for field, (begin, end) in texts.items():
                if message.get(field) is not None:
                    marked[field] = begin + message[field] + end
            message = marked
        wrapped.append(message)
    return wrapped


def _spans(regions: list[_Region], messages: Sequence[Mapping[str, Any]],
           learnt_roles: frozenset[str]) -> list[tuple[int, int, bool]]:
    """Begin and end of what is learnt, and whether it is an assistant's turn.

    Regions are given to messages in order, reasoning before content; one of the other kind on the way belongs to
    nobody. (A template that drops earlier reasoning, as Qwen3's, so shifts them: the original does it, and the labels
    must be the same.) Reasoning and content of one message are learnt with what stands between them.
    """
    owners: dict[int, int] = {}
    position = 0
    for index, message in enumerate(messages):
        if message["role"] not in learnt_roles:
            continue
        expected = [True] if any(message.get(field) is not None for field in _REASONING_FIELDS) else []
        expected += [False] if message.get("content") is not None else []
        for reasoning in expected:
            while position < len(regions) and regions[position].reasoning != reasoning:
                position += 1
            if position < len(regions):
                owners[position] = index
                position += 1
    spans: list[tuple[int, int, bool]] = []
    position = 0
    while position < len(regions):
        owner, first = owners.get(position), position
        if owner is not None and owners.get(position + 1) == owner:
            position += 1
        spans.append((regions[first].begin, regions[position].end,
                      owner is not None and messages[owner]["role"] == "assistant"))
        position += 1
    return spans
