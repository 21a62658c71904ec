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
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.messages import REASONING_FIELDS

# A tag, a blank, a word or another character: where two headers part, they do so between these.
_PIECES = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]|\s|\w+|.", re.DOTALL)
_MOST_SHAPES = 4096
_CALLS = "tool_calls"
# What no row has and no template looks for: the text of the answers that stand in for others.
_OTHER_ANSWER = chr(FIRST_RESERVED)


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
            found = _Turn(self, shape, marked, tools, index, learnt).spans(remarks)
            if spans and found and found[0][0] < spans[-1][1]:
                raise InputError(f"the model's chat template writes messages[{index}] before an earlier turn has ended")
            spans += found
        pieces = re.split(f"([{_OTHER_ANSWER}-\U0010ffff])", marked.text)
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
            if field == _CALLS:
                names = ", ".join(repr(name) for name in _called(message))
                raise InputError(f"the model's chat template drops the call of the tool {names} in messages[{index}]")
            if field in REASONING_FIELDS or not all(gone):
                other_names = [missing.get((index, name), [True]) for name in REASONING_FIELDS]
                left_out = left_out or not all(gone) or all(all(name) for name in other_names)
            elif message.get(_CALLS):
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


class _Turn:
    """One learnt turn in a marked text."""

    def __init__(
        self, finder: TurnFinder, shape: Shape, marked: MarkedText, tools: Any, index: int, learnt: list[bool]
    ) -> None:
        self._finder, self._shape, self._marked, self._tools, self._index = finder, shape, marked, tools, index
        self._message = shape.messages[index]
        self._text = marked.text
        self._own = {chr(FIRST_RESERVED + 1 + n) for n, (owner, _) in enumerate(shape.owners) if owner == index}
        self._foreign = {
            chr(FIRST_RESERVED + 1 + n)
            for n, (owner, field) in enumerate(shape.owners)
            if owner != index and not learnt[owner] and field != _CALLS
        }

    def spans(self, remarks: list[str]) -> list[tuple[int, int]]:
        """What is learnt of the turn, from its first word to its end."""
        parts = self._turns(self._marked, self._own)
        if not parts or (self._own and not any(self._own & set(self._text[begin:end]) for begin, end in parts)):
            raise InputError(
                f"the model's chat template does not write messages[{self._index}] (role {self._message['role']!r}) "
                "in a loop over the messages, so its turn cannot be told apart from others"
            )
        other = self._with_other_answer()
        begin = parts[0][0] + self._header(self._text[parts[0][0] : parts[0][1]], other)
        end = self._end(parts[-1], begin, other, remarks)
        found: list[tuple[int, int]] = []
        for number, (first, last) in enumerate(parts):
            first = max(first, begin)
            last = end if number == len(parts) - 1 else max(first, first + len(self._text[first:last].rstrip()))
            if self._foreign & set(self._text[first:last]):
                raise InputError(
                    f"the model's chat template writes another message into the turn of messages[{self._index}]"
                )
            if first < last:
                found.append((first, last))
        self._see_all_is_in(found)
        return found

    def _see_all_is_in(self, spans: list[tuple[int, int]]) -> None:
        """Sees that nothing that the turn says stands outside of what is learnt; a call's name may, in its result."""
        inside = "".join(self._text[begin:end] for begin, end in spans)
        for character in self._own:
            _, field = self._shape.owners[ord(character) - FIRST_RESERVED - 1]
            expected = self._text.count(character)
            if field == _CALLS:
                expected = min(expected, 1)
            if inside.count(character) < expected:
                raise InputError(
                    f"the model's chat template writes a part of messages[{self._index}] outside of its turn"
                )

    def _turns(self, marked: MarkedText, own: set[str]) -> list[tuple[int, int]]:
        """The parts of the text that are this turn's; a last answer may be written behind the loop over messages."""
        parts = marked.turns(self._index)
        if own and not any(own & set(marked.text[begin:end]) for begin, end in parts):
            rest = len(marked.text) - len(marked.after_the_turns())
            said = {character for character in marked.text[rest:] if character >= _OTHER_ANSWER}
            if said and said <= own:
                parts.append((rest, len(marked.text)))
        return parts

    def _header(self, turn: str, other: tuple[str, str] | None) -> int:
        """How long the part in front is that is not learnt: headers, and what a generation prompt has too."""
        before_answer = other[0] if other else None
        header = before_answer if before_answer is not None and turn.startswith(before_answer) else None
        if header is not None and self._message["role"] != "assistant":
            return len(header)
        prompted = self._generation_prompt_in(turn)
        if header is not None:
            return max(len(header), prompted or 0)
        if self._message["role"] != "assistant":
            first = next((place for place, character in enumerate(turn) if character in self._own), None)
            if first is None:
                raise InputError(f"the model's chat template shows no answer in place of messages[{self._index}]")
            return first
        if prompted is not None:
            return prompted
        if before_answer is None:
            raise InputError(
                f"the model's chat template has no generation prompt, and takes no other answer in place of "
                f"messages[{self._index}], so its header cannot be found"
            )
        return _common(turn, before_answer)

    def _end(self, part: tuple[int, int], begin: int, other: tuple[str, str] | None, remarks: list[str]) -> int:
        """Where the turn's end is: past its end-of-sequence token, or past all that the template writes for it."""
        text, eos = self._text, self._finder._eos if self._message["role"] == "assistant" else None
        said = max((place + 1 for place in range(*part) if text[place] in self._own), default=max(part[0], begin))
        tail = text[said : part[1]]
        after_answer = other[1] if other else ""
        # Behind a tool call there is more than behind an answer.
        more = len(tail) - len(after_answer) if tail.endswith(after_answer) else 0
        if eos and eos in tail[more:] and (more or not self._message.get(_CALLS)):
            return said + tail.index(eos, more) + len(eos)
        end = said + len(tail.rstrip())
        content = self._message.get("content")
        if not self._own and isinstance(content, str) and text.startswith(content, begin):
            # An answer of blanks is learnt with them.
            end = max(end, begin + len(content))
        is_last = self._index == len(self._shape.messages) - 1
        if not after_answer.strip():
            end += self._end_in_next_turn(end, part[1])
        rest = text[end:]
        if eos and eos not in text[said:end] and rest.lstrip().startswith(eos) and (is_last or end == said):
            end += rest.index(eos) + len(eos)
        if eos and eos not in text[said:end]:
            pieces = _PIECES.findall(text[said:end].strip())
            remarks.append(
                f"the chat template ends an answer with {repr(pieces[-1]) if pieces else 'nothing of its own'}, and "
                f"the tokenizer's eos_token is {eos!r}, so that generation may not stop there; set eos_token in the "
                "model's tokenizer_config.json to the end of a turn"
            )
        return end

    def _end_in_next_turn(self, end: int, part_end: int) -> int:
        """The length of an end of turn that the template writes in front of what follows."""
        messages, index = self._shape.messages, self._index
        render = self._finder._template.render_marked
        behind = re.split(f"[{_OTHER_ANSWER}-\U0010ffff]", self._text[part_end:])[0]
        headers = []
        try:
            if index == len(messages) - 1:
                return 0
            following = self._marked.turns(index + 1)[0][0]
            if following != part_end:
                return 0
            for others in ([*messages[:index], messages[index + 1]], [messages[index + 1]]):
                try:
                    marked = render(others, self._tools)
                    first = marked.turns(len(others) - 1)[0][0]
                except Exception:
                    continue
                headers.append(re.split(f"[{_OTHER_ANSWER}-\U0010ffff]", marked.text[first:])[0])
        except IndexError:
            return 0
        written = [behind[: -len(header)].rstrip() for header in headers if header and behind.endswith(header)]
        return part_end - end + len(written[0]) if written and written[0] else 0

    def _with_other_answer(self) -> tuple[str, str] | None:
        """The turn's text before and behind a plain answer that stands in its place; None where none is taken."""
        answer = {"role": self._message["role"], "content": _OTHER_ANSWER}
        for key in ("name", "tool_call_id"):
            if key in self._message:
                answer[key] = self._message[key]
        before = self._shape.messages[: self._index]
        for messages in ([*before, answer, *self._shape.messages[self._index + 1 :]], [*before, answer]):
            try:
                marked = self._finder._template.render_marked(messages, self._tools)
            except Exception:
                # Templates refuse orders of roles in any way they like.
                continue
            for begin, end in self._turns(marked, {_OTHER_ANSWER}):
                turn = marked.text[begin:end]
                if turn.count(_OTHER_ANSWER) == 1:
                    head, tail = turn.split(_OTHER_ANSWER)
                    return head, tail
        return None

    def _generation_prompt_in(self, turn: str) -> int | None:
        """Where in the turn the part ends that the generation prompt has too; None without one."""
        before = self._shape.messages[: self._index]
        try:
            prompt = self._finder._template.render_marked(before, self._tools, True).after_the_turns()
            without = self._finder._template.render_marked(before, self._tools).after_the_turns()
        except Exception:
            return None
        prompt = prompt.removeprefix(without)
        first = _PIECES.match(prompt)
        header = re.split("|".join(self._own) or "(?!)", turn)[0]
        place = header.find(first[0]) if first else -1
        return place + _common(turn[place:], prompt) if place >= 0 else None


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


def _common(one: str, other: str) -> int:
    """The length of what both begin with, in whole pieces."""
    length = 0
    for piece, same in zip(_PIECES.finditer(one), _PIECES.finditer(other), strict=False):
        if piece[0] != same[0]:
            break
        length = piece.end()
    return length


def _called(message: dict[str, Any]) -> list[str]:
    """Names of the tools that a message calls, in OpenAI's form or without its `function`."""
    calls = message.get(_CALLS)
    functions = (
        [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    return [
        function["name"]
        for function in functions
        if isinstance(function, dict) and isinstance(function.get("name"), str)
    ]
