"""Conversations to token ids and loss labels, the same that training_hub.osft makes of them.

The rule is instructlab-training's (data_process.unmask_messages, 0.16): what is learnt is wrapped in marker tokens,
the model's chat template is applied, and the marks are taken out again. Here the template renders a text first, many
texts are encoded at once, and one batch is encoded (in native code, on all cores) while Python renders the next.
"""

import json
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.messages import (
    CONTENT_BEGIN,
    CONTENT_END,
    MARKERS,
    REASONING_BEGIN,
    REASONING_END,
    REASONING_FIELDS,
    Conversation,
    Problems,
    Warnings,
)

#: Label of a token without loss (torch.nn.CrossEntropyLoss's ignore_index).
NO_LOSS = -100

# What is encoded at once: enough for all cores, and little memory where rows are long.
_ROWS_AT_ONCE = 512
_CHARACTERS_AT_ONCE = 1_000_000
# One batch is encoded while another one's ids become Python's, which keeps the cores from waiting for it.
_BATCHES_AT_ONCE = 2


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


class _Region(NamedTuple):
    begin: int
    end: int
    reasoning: bool


class _Batch(NamedTuple):
    conversations: list[Conversation]
    texts: list[str]
    ids: Callable[[], list[list[int]]]


class ChatTokenizer:
    """Applies a model's chat template and labels what is learnt.

    Args:
        tokenizer: a transformers tokenizer with a chat template; the marker tokens are added to it.
        warnings: takes what is odd about rows that are tokenized nevertheless.

    Raises:
        InputError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, warnings: Warnings | None = None) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"training_base_model={tokenizer.name_or_path}: its tokenizer has no chat template; "
                "give an instruction-tuned model, or add chat_template.jinja to the model folder"
            )
        tokenizer.add_tokens(list(MARKERS), special_tokens=True)
        self._tokenizer = tokenizer
        self._warnings = warnings or Warnings()
        self._encodes_fast: bool | None = None
        ids = tokenizer.convert_tokens_to_ids
        self._content_begin, self._content_end = ids(CONTENT_BEGIN), ids(CONTENT_END)
        self._reasoning_begin, self._reasoning_end = ids(REASONING_BEGIN), ids(REASONING_END)
        self._marks = frozenset((self._content_begin, self._content_end, self._reasoning_begin, self._reasoning_end))
        self._eos = None
        if tokenizer.eos_token is not None:
            self._eos = tokenizer.encode(tokenizer.eos_token, add_special_tokens=False)[0]

    def samples(
        self, conversations: Iterable[Conversation], problems: Problems | None = None
    ) -> Iterator[tuple[str, Sample]]:
        """Gives each conversation's place and sample, in order.

        Args:
            conversations: checked ones; they are read some batches ahead.
            problems: takes the conversations that cannot be tokenized, which are passed over; without it the first
                raises.

        Raises:
            InputError: the template refuses a conversation, drops or changes a turn, or loses the marks in it; naming
                the row.
        """
        with ThreadPoolExecutor(_BATCHES_AT_ONCE) as encoders:
            waiting: deque[_Batch] = deque()
            for batch in _batches(conversations):
                rendered = self._rendered(batch, problems)
                texts = [text for _, text in rendered]
                waiting.append(_Batch([one for one, _ in rendered], texts, self._start_encoding(encoders, texts)))
                if len(waiting) > _BATCHES_AT_ONCE:
                    yield from self._labelled(waiting.popleft(), problems)
            for batch in waiting:
                yield from self._labelled(batch, problems)

    def _rendered(self, batch: list[Conversation], problems: Problems | None) -> list[tuple[Conversation, str]]:
        """Renders a batch at once, or one by one where one of them is refused."""
        try:
            return list(zip(batch, self._render([_wrap(one) for one in batch]), strict=True))
        except Exception:
            rendered = []
            for one in batch:
                try:
                    rendered.append((one, *self._render_one(one)))
                except InputError as error:
                    if problems is None:
                        raise
                    problems.add(str(error))
            return rendered

    def _render(self, wrapped: list[list[dict[str, Any]]]) -> list[str]:
        texts = self._tokenizer.apply_chat_template(wrapped, tokenize=False)
        for text in texts:
            # JSON can spell half of a surrogate pair ("\\ud83d"), which no tokenizer takes.
            text.encode()
        return texts

    def _render_one(self, conversation: Conversation) -> list[str]:
        import jinja2

        try:
            return self._render([_wrap(conversation)])
        except UnicodeEncodeError as error:
            raise InputError(f"{conversation.place}: is no text: {error}") from None
        # Templates refuse roles and orders that they do not know, each in a way of its own.
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"{conversation.place}: the model's chat template does not take this conversation: {error}"
            ) from None

    def _start_encoding(self, encoders: ThreadPoolExecutor, texts: list[str]) -> Callable[[], list[list[int]]]:
        """Gives what waits for the ids of the texts."""
        if self._encodes_fast:
            return encoders.submit(self._encode_fast, texts).result
        # transformers changes settings of the native tokenizer, which no other thread may use meanwhile.
        ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        if self._encodes_fast is None and texts:
            # A tokenizer in Python, or one with steps of its own around the native one, shows in the first batch.
            backend = getattr(self._tokenizer, "backend_tokenizer", None)
            self._encodes_fast = hasattr(backend, "encode_batch_fast") and ids == self._encode_fast(texts)
        return lambda: ids

    def _encode_fast(self, texts: list[str]) -> list[list[int]]:
        """Without the offsets and masks that transformers asks for and nobody here needs."""
        encoded = self._tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def _labelled(self, batch: _Batch, problems: Problems | None) -> Iterator[tuple[str, Sample]]:
        for conversation, text, ids in zip(batch.conversations, batch.texts, batch.ids(), strict=True):
            try:
                sample = self._label(conversation, ids)
                self._check_turns(conversation, text)
            except InputError as error:
                if problems is None:
                    raise
                problems.add(str(error))
                continue
            yield conversation.place, sample

    def _label(self, conversation: Conversation, ids: list[int]) -> Sample:
        all_marks = self._marks
        marks = [position for position, token in enumerate(ids) if token in all_marks]
        regions = self._regions(conversation.place, ids, marks)
        said = sum(
            conversation.is_learnt(index) and message.get("content") is not None
            for index, message in enumerate(conversation.messages)
        )
        if (rendered := sum(not region.reasoning for region in regions)) < said:
            raise InputError(
                f"{conversation.place}: the model's chat template drops turns: {rendered} of the {said} "
                "that are learnt are in the text"
            )
        learnt: list[tuple[int, int]] = []
        unended = None
        for begin, end, is_assistant in _spans(regions, conversation):
            spans = [(begin + 1, end)]
            if is_assistant:
                end_of_turn = self._end_of_turn(ids, end + 1, marks)
                unended = None if end_of_turn else end + 1
                if end_of_turn:
                    spans.append((end + 1, end_of_turn))
            for span in spans:
                # Where they are once the marks are gone.
                first, last = (position - bisect_left(marks, position) for position in span)
                if learnt and learnt[-1][1] == first:
                    learnt[-1] = (learnt[-1][0], last)
                elif first < last:
                    learnt.append((first, last))
        if unended:
            self._warn_of_no_end(conversation.place, ids[unended : unended + 1])
        kept: list[int] = []
        for begin, end in zip([-1, *marks], [*marks, len(ids)], strict=True):
            kept += ids[begin + 1 : end]
        return Sample(kept, learnt)

    def _regions(self, place: str, ids: list[int], marks: list[int]) -> list[_Region]:
        """Pairs of marks in the order in which they begin."""
        regions: list[_Region] = []
        kinds = [ids[position] for position in marks]
        index = 0
        while index < len(kinds):
            begin = kinds[index]
            if begin not in (self._content_begin, self._reasoning_begin):
                raise InputError(f"{place}: the model's chat template cuts off the beginning of a message")
            reasoning = begin == self._reasoning_begin
            try:
                end = kinds.index(self._reasoning_end if reasoning else self._content_end, index)
            except ValueError:
                raise InputError(f"{place}: the model's chat template cuts a message short") from None
            if begin in kinds[index + 1 : end]:
                raise InputError(f"{place}: the model's chat template puts a message into another")
            regions.append(_Region(marks[index], marks[end], reasoning))
            index = end + 1
        return regions

    def _end_of_turn(self, ids: list[int], start: int, marks: list[int]) -> int | None:
        """One past the end-of-sequence token that follows an assistant's text and is learnt with it, if one does."""
        following = marks[bisect_left(marks, start) :]
        until = next(
            (mark for mark in following if ids[mark] in (self._content_begin, self._reasoning_begin)), len(ids)
        )
        try:
            return ids.index(self._eos, start, until) + 1
        except ValueError:
            return None

    def _warn_of_no_end(self, place: str, following: list[int]) -> None:
        eos = self._tokenizer.eos_token
        end = repr(self._tokenizer.decode(following)) if following else "nothing"
        self._warnings.add(
            f"the model will not learn to stop: the chat template ends an answer with {end}, and the tokenizer's "
            f"eos_token is {eos!r}; set eos_token in the model's tokenizer_config.json to the end of a turn",
            place,
        )

    def _check_turns(self, conversation: Conversation, text: str) -> None:
        """Sees that what each turn says stands in the text that the template made."""
        place = conversation.place
        for index, message in enumerate(conversation.messages):
            content = message.get("content")
            # Templates strip what is not learnt, and write a tool's result as JSON.
            if content and content not in text:
                if content.strip() in text:
                    self._warnings.add("the chat template strips blanks around a message", place)
                elif not any(json.dumps(content, ensure_ascii=ascii)[1:-1] in text for ascii in (False, True)):
                    raise InputError(
                        f"{place}: the model's chat template drops or changes messages[{index}] "
                        f"(role {message['role']!r})"
                    )
            if len(message) == 2:
                continue
            for name in _called(message):
                if name not in text:
                    raise InputError(
                        f"{place}: the model's chat template drops the call of the tool {name!r} in messages[{index}]"
                    )
            if any(message.get(field) and message[field].strip() not in text for field in REASONING_FIELDS):
                self._warnings.add("the chat template leaves out a turn's reasoning, so it is not learnt", place)


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


def _wrap(conversation: Conversation) -> list[dict[str, Any]]:
    """Puts marks around the learnt texts; other fields first, as the original does."""
    wrapped = []
    for index, message in enumerate(conversation.messages):
        if conversation.is_learnt(index):
            marked = {key: value for key, value in message.items() if key != "content" and key not in REASONING_FIELDS}
            if (content := message.get("content")) is not None:
                marked["content"] = CONTENT_BEGIN + content + CONTENT_END
            if len(message) > 2:
                for field in REASONING_FIELDS:
                    if message.get(field) is not None:
                        marked[field] = REASONING_BEGIN + message[field] + REASONING_END
            message = marked
        wrapped.append(message)
    return wrapped


def _spans(regions: list[_Region], conversation: Conversation) -> list[tuple[int, int, bool]]:
    """Begin and end of what is learnt, and whether it is an assistant's turn.

    Regions are given to messages in order, reasoning before content; one of the other kind on the way belongs to
    nobody. (A template that drops earlier reasoning, as Qwen3's, so shifts them: the original does it, and the labels
    must be the same.) Reasoning and content of one message are learnt with what stands between them.
    """
    messages = conversation.messages
    owners: dict[int, int] = {}
    position = 0
    for index, message in enumerate(messages):
        if not conversation.is_learnt(index):
            continue
        expected = [True] if any(message.get(field) is not None for field in REASONING_FIELDS) else []
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
        spans.append(
            (regions[first].begin, regions[position].end, owner is not None and messages[owner]["role"] == "assistant")
        )
        position += 1
    return spans


def _called(message: dict[str, Any]) -> list[str]:
    """Names of the tools that a message calls, in OpenAI's form or without its `function`."""
    calls = message.get("tool_calls")
    functions = (
        [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    return [
        function["name"]
        for function in functions
        if isinstance(function, dict) and isinstance(function.get("name"), str)
    ]
