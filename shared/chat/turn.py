"""One learnt turn in a rendered conversation: where its header ends, and where the turn does."""

import re
from typing import Any

from kfp_osft.shared.chat.chat_template import FIRST_RESERVED, ChatTemplate, MarkedText
from kfp_osft.shared.chat.shapes import Shape
from kfp_osft.shared.reporting.errors import InputError

CALLS = "tool_calls"
#: What no row has and no template looks for: the text of the answers that stand in for others.
OTHER_ANSWER = chr(FIRST_RESERVED)
# A tag, a blank, a word or another character: where two headers part, they do so between these.
_PIECES = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]|\s|\w+|.", re.DOTALL)


class Turn:
    """One learnt turn in a marked text.

    Args:
        template: the model's.
        eos: the tokenizer's end-of-sequence token, if it has one.
        shape: of the row.
        marked: the shape as the template writes it.
        tools: as the template was given them.
        index: of the turn's message.
        learnt: whether each message is learnt.
    """

    def __init__(
        self,
        template: ChatTemplate,
        eos: str | None,
        shape: Shape,
        marked: MarkedText,
        tools: Any,
        index: int,
        learnt: list[bool],
    ) -> None:
        self._template, self._eos = template, eos
        self._shape, self._marked, self._tools, self._index = shape, marked, tools, index
        self._message = shape.messages[index]
        self._text = marked.text
        self._own = {chr(FIRST_RESERVED + 1 + n) for n, (owner, _) in enumerate(shape.owners) if owner == index}
        self._foreign = {
            chr(FIRST_RESERVED + 1 + n)
            for n, (owner, field) in enumerate(shape.owners)
            if owner != index and not learnt[owner] and field != CALLS
        }

    def spans(self, remarks: list[str]) -> list[tuple[int, int]]:
        """What is learnt of the turn, from its first word to its end: begins and ends (exclusive) in the marked text.

        Args:
            remarks: takes sentences about what is odd.

        Raises:
            InputError: the turn cannot be told apart from others, or a part of it stands outside of it.
        """
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
            if field == CALLS:
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
            said = {character for character in marked.text[rest:] if character >= OTHER_ANSWER}
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
        text, eos = self._text, self._eos if self._message["role"] == "assistant" else None
        said = max((place + 1 for place in range(*part) if text[place] in self._own), default=max(part[0], begin))
        tail = text[said : part[1]]
        after_answer = other[1] if other else ""
        # Behind a tool call there is more than behind an answer.
        more = len(tail) - len(after_answer) if tail.endswith(after_answer) else 0
        if eos and eos in tail[more:] and (more or not self._message.get(CALLS)):
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
        render = self._template.render_marked
        behind = re.split(f"[{OTHER_ANSWER}-\U0010ffff]", self._text[part_end:])[0]
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
                headers.append(re.split(f"[{OTHER_ANSWER}-\U0010ffff]", marked.text[first:])[0])
        except IndexError:
            return 0
        written = [behind[: -len(header)].rstrip() for header in headers if header and behind.endswith(header)]
        return part_end - end + len(written[0]) if written and written[0] else 0

    def _with_other_answer(self) -> tuple[str, str] | None:
        """The turn's text before and behind a plain answer that stands in its place; None where none is taken."""
        answer = {"role": self._message["role"], "content": OTHER_ANSWER}
        for key in ("name", "tool_call_id"):
            if key in self._message:
                answer[key] = self._message[key]
        before = self._shape.messages[: self._index]
        for messages in ([*before, answer, *self._shape.messages[self._index + 1 :]], [*before, answer]):
            try:
                marked = self._template.render_marked(messages, self._tools)
            except Exception:
                # Templates refuse orders of roles in any way they like.
                continue
            for begin, end in self._turns(marked, {OTHER_ANSWER}):
                turn = marked.text[begin:end]
                if turn.count(OTHER_ANSWER) == 1:
                    head, tail = turn.split(OTHER_ANSWER)
                    return head, tail
        return None

    def _generation_prompt_in(self, turn: str) -> int | None:
        """Where in the turn the part ends that the generation prompt has too; None without one."""
        before = self._shape.messages[: self._index]
        try:
            prompt = self._template.render_marked(before, self._tools, True).after_the_turns()
            without = self._template.render_marked(before, self._tools).after_the_turns()
        except Exception:
            return None
        prompt = prompt.removeprefix(without)
        first = _PIECES.match(prompt)
        header = re.split("|".join(self._own) or "(?!)", turn)[0]
        place = header.find(first[0]) if first else -1
        return place + _common(turn[place:], prompt) if place >= 0 else None


def _common(one: str, other: str) -> int:
    """The length of what both begin with, in whole pieces."""
    length = 0
    for piece, same in zip(_PIECES.finditer(one), _PIECES.finditer(other), strict=False):
        if piece[0] != same[0]:
            break
        length = piece.end()
    return length
