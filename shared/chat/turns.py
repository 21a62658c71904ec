"""Where in a rendered conversation the learnt turns stand, for any chat template.

A template may strip a message, look into it, split it, drop a part by its place. So the conversation is rendered
plainly, and where its turns stand is found on a copy in which each text is one character, its stand-in: that rendering,
with the texts put back, must be the plain one. What is found depends on the shape of a row alone (roles, its fields,
blanks and tags in the texts), so it is found once a shape; each row is checked against it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from kfp_osft.shared.chat.chat_template import (
    FIRST_RESERVED,
    ChatTemplate,
    MarkedText,
    written_forms,
)
from kfp_osft.shared.chat.shapes import Shape, shape_of
from kfp_osft.shared.chat.turn import CALLS, OTHER_ANSWER, Turn
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.messages import REASONING_FIELDS

_MOST_SHAPES = 4096


class Layout(NamedTuple):
    """What the template writes around the texts of a shape, and where the learnt turns stand.

    Attributes:
        literals: the template's text before, between and behind the stand-ins; one more than these.
        order: the stand-ins as they are written, by their number; one may be written twice or not at all.
        learnt: begin and end (exclusive) of what is learnt, each as the number of stand-ins before it, and the
            characters of the literal there.
        remarks: sentences about what is odd.
    """

    literals: list[str]
    order: list[int]
    learnt: list[tuple[tuple[int, int], tuple[int, int]]]
    remarks: list[str]


class Found(NamedTuple):
    """Where the learnt turns stand in a text.

    Attributes:
        learnt: the learnt parts, begin and end (exclusive) in characters.
        pieces: the text in pieces, by turns what the template writes and what the row says.
        layout: that the text follows.
    """

    learnt: list[tuple[int, int]]
    pieces: list[str]
    layout: Layout


class TurnFinder:
    """Finds what is learnt in the text that a template makes of a conversation.

    Args:
        template: the model's.
        eos: the tokenizer's end-of-sequence token, if it has one.
    """

    def __init__(self, template: ChatTemplate, eos: str | None) -> None:
        self._template = template
        self._eos = eos
        self._layouts: dict[Any, Layout | InputError] = {}

    def find(self, messages: list[dict[str, Any]], learnt: list[bool], tools: Any, text: str) -> Found:
        """Finds the learnt parts of the text.

        Args:
            messages: without null fields, as the template was given them.
            learnt: whether each of them is learnt.
            tools: as the template was given them.
            text: what the template made of the messages.

        Raises:
            InputError: the template drops or changes a turn, or puts turns together in a way that cannot be told apart;
                without the row's place.
        """
        failure = None
        # A template may look at the arguments of a call, or at the day: then a second and a third try find it.
        for with_calls, again in ((True, False), (True, True), (False, True)):
            shape = shape_of(messages, self._template.looked_for, with_calls)
            key = _key(shape, learnt, tools, with_calls)
            layout = None if again else self._layouts.get(key)
            if layout is None:
                layout = self._layout(shape, messages, learnt, tools)
                if len(self._layouts) == _MOST_SHAPES:
                    self._layouts.clear()
                self._layouts[key] = layout
            if isinstance(layout, InputError):
                failure = failure or layout
                continue
            found = _found(layout, shape.texts, text)
            if found:
                return found
            failure = failure or InputError(_changed(layout, shape, text))
        raise failure

    def _layout(
        self, shape: Shape, messages: list[dict[str, Any]], learnt: list[bool], tools: Any
    ) -> Layout | InputError:
        """The layout of a shape, or an error where the template takes no stand-ins."""
        try:
            marked = self._template.render_marked(shape.messages, tools)
        except InputError:
            raise
        except Exception as error:
            return InputError(f"the model's chat template looks into what messages say: {error}")
        remarks = list(self._remarks(shape, messages, learnt, marked))
        if tools and not self._template.reads_tools:
            remarks.append("the chat template does not show 'tools'")
        spans: list[tuple[int, int]] = []
        for index in (index for index, is_learnt in enumerate(learnt) if is_learnt):
            found = Turn(self._template, self._eos, shape, marked, tools, index, learnt).spans(remarks)
            if spans and found and found[0][0] < spans[-1][1]:
                raise InputError(f"the model's chat template writes messages[{index}] before an earlier turn has ended")
            spans += found
        pieces = re.split(f"([{OTHER_ANSWER}-\U0010ffff])", marked.text)
        literals, order = pieces[::2], [ord(character) - FIRST_RESERVED - 1 for character in pieces[1::2]]

        def position(offset: int) -> tuple[int, int]:
            for count, literal in enumerate(literals):
                if offset <= len(literal):
                    return count, offset
                offset -= len(literal) + 1
            raise AssertionError("an offset beyond the text")

        return Layout(literals, order, [(position(begin), position(end)) for begin, end in spans], remarks)

    def _remarks(
        self, shape: Shape, messages: list[dict[str, Any]], learnt: list[bool], marked: MarkedText
    ) -> Iterator[str]:
        """Sees that what each turn says is in the text, and tells what is not there but may be left out."""
        seen = set(marked.text)
        missing: dict[tuple[int, str], list[bool]] = {}
        for number, owner in enumerate(shape.owners):
            missing.setdefault(owner, []).append(chr(FIRST_RESERVED + 1 + number) not in seen)
        left_out = False
        for (index, field), gone in missing.items():
            message = messages[index]
            if not any(gone):
                continue
            if field == CALLS:
                names = ", ".join(repr(name) for name in _called(message))
                raise InputError(f"the model's chat template drops the call of the tool {names} in messages[{index}]")
            if field in REASONING_FIELDS or not all(gone):
                other_names = [missing.get((index, name), [True]) for name in REASONING_FIELDS]
                left_out = left_out or not all(gone) or all(all(name) for name in other_names)
            elif message.get(CALLS):
                raise InputError(
                    f"the model's chat template leaves out what messages[{index}] says beside its tool call"
                )
            elif learnt[index]:
                raise InputError(f"the model's chat template drops turns: messages[{index}] is learnt, not in the text")
            else:
                raise InputError(
                    f"the model's chat template drops or changes messages[{index}] (role {message['role']!r})"
                )
        if left_out:
            yield "the chat template leaves out a turn's reasoning, so it is not learnt"
        for message in shape.messages:
            content = message.get("content")
            if (
                isinstance(content, str)
                and content.strip() not in ("", content)
                and not any(form in marked.text for form in written_forms(content))
            ):
                if content.strip() in marked.text:
                    yield "the chat template strips blanks around a message"
                break


def _key(shape: Shape, learnt: list[bool], tools: Any, with_calls: bool) -> Any:
    if tools is None and all(len(message) == 2 and "content" in message for message in shape.messages):
        return tuple([value for message in shape.messages for value in message.values()]), tuple(learnt)
    return json.dumps([shape.messages, tools, with_calls]), tuple(learnt)


def _found(layout: Layout, texts: list[str], text: str) -> Found | None:
    """Where the layout's turns stand in the text; None where the text is another than the layout makes."""
    pieces = list(layout.literals) + layout.literals[1:]
    pieces[::2] = layout.literals
    pieces[1::2] = [texts[number] for number in layout.order]
    if "".join(pieces) != text:
        at = len(pieces[0])
        if not text.startswith(pieces[0]):
            return None
        for place in range(1, len(pieces), 2):
            literal = pieces[place + 1]
            for form in written_forms(pieces[place]):
                if text.startswith(form, at) and text.startswith(literal, at + len(form)):
                    break
            else:
                return None
            pieces[place] = form
            at += len(form) + len(literal)
        if at != len(text):
            return None
    begins, length = [0], 0
    for place in range(1, len(pieces), 2):
        length += len(pieces[place - 1]) + len(pieces[place])
        begins.append(length)
    learnt = [(begins[first] + begin, begins[last] + end) for (first, begin), (last, end) in layout.learnt]
    return Found(learnt, pieces, layout)


def _changed(layout: Layout, shape: Shape, text: str) -> str:
    """Says which message is not in the text as it was given."""
    at = 0
    for number, literal in zip([None, *layout.order], layout.literals, strict=True):
        forms = [""] if number is None else list(written_forms(shape.texts[number]))
        form = next((form for form in forms if text.startswith(form + literal, at)), None)
        if form is None:
            index = 0 if number is None else shape.owners[number][0]
            return (
                f"the model's chat template drops or changes messages[{index}] (role {shape.messages[index]['role']!r})"
            )
        at += len(form) + len(literal)
    return "the model's chat template writes another text with each call"


def _called(message: dict[str, Any]) -> list[str]:
    """Names of the tools that a message calls, in OpenAI's form or without its `function`."""
    calls = message.get(CALLS)
    functions = (
        [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    return [
        function["name"]
        for function in functions
        if isinstance(function, dict) and isinstance(function.get("name"), str)
    ]
