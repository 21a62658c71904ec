"""A model's chat template, rendered plainly, and rendered with marks that say whose turn each part of the text is.

The marks come from the template itself: its loops over messages are given a statement more, which writes one character
of a private use plane where a message's turn begins, and one where it ends. Nothing in a message is changed for it.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kfp_osft.shared.chat.limits import guard_numbers
from kfp_osft.shared.reporting.errors import InputError

#: From here on characters of planes 15 and 16 stand for texts (turns.py), and above them for the marks.
FIRST_RESERVED = 0xF0000
_FIRST_END, _FIRST_TURN = 0xFFF00, 0x100000
_MESSAGES, _LEVELS, _FIRST_LEVEL_OF_MACROS = 8191, 8, 4
_RESERVED = re.compile(f"[{chr(FIRST_RESERVED)}-\U0010ffff]")
_MARK = re.compile(f"[{chr(_FIRST_END)}-\U0010ffff]")
# Reserved characters as JSON in ASCII (a surrogate pair) and Python's repr write them.
_ESCAPED = re.compile(r"\\udb[89a-f][0-9a-f]\\ud[c-f][0-9a-f]{2}|\\U000f[0-9a-f]{4}")
# What templates look for in a message: methods of str that take another text, and tags by their look.
_METHODS = {"split", "rsplit", "startswith", "endswith", "replace", "find", "rfind", "index", "count", "partition"}
_METHODS |= {"rpartition", "removeprefix", "removesuffix", "strip", "lstrip", "rstrip"}
_TAG = re.compile(r"\s*(<[^<>]{1,40}>|\[[^\[\]]{1,40}\])\s*")
_TURN, _END = "kfp_osft_turn", "kfp_osft_end"


class MarkedText(NamedTuple):
    """A rendered text and, for each of its characters, whose turn it is.

    Attributes:
        text: without marks.
        owners: begin of a part and the index of the message whose turn it is; None for what belongs to no turn, or to
            one within another, as where a template looks up the call that a tool's result answers.
    """

    text: str
    owners: list[tuple[int, int | None]]

    def turns(self, index: int) -> list[tuple[int, int]]:
        """The parts of one message's turn, begin and end (exclusive), none of them empty and no two touching."""
        parts: list[tuple[int, int]] = []
        ends = [begin for begin, _ in self.owners[1:]] + [len(self.text)]
        for (begin, owner), end in zip(self.owners, ends, strict=True):
            if owner != index or begin == end:
                continue
            if parts and parts[-1][1] == begin:
                begin = parts.pop()[0]
            parts.append((begin, end))
        return parts

    def after_the_turns(self) -> str:
        """What follows the last turn."""
        begin, owner = self.owners[-1]
        return self.text[begin:] if owner is None else ""


class ChatTemplate:
    """A chat template in transformers' environment.

    Args:
        source: the Jinja source.
        variables: what it sees beside the conversation: the tokenizer's special tokens by name.

    Raises:
        InputError: the source is not a Jinja template; says only where, and what is wrong.
    """

    def __init__(self, source: str, variables: dict[str, Any]) -> None:
        # Its environment has what chat templates use beside Jinja's own; there is no public way to it.
        from jinja2 import TemplateSyntaxError, nodes
        from transformers.utils.chat_template_utils import _compile_jinja_template

        self._variables = variables
        environment = _compile_jinja_template("").environment.overlay()
        guard_numbers(environment)
        try:
            tree = environment.parse(source)
        except TemplateSyntaxError as error:
            raise InputError(f"line {error.lineno}: {error.message}") from None
        self._plain = environment.from_string(source)
        self._globals = dict(self._plain.globals)
        #: Matches what the template may look for in a message; never an empty text.
        self.looked_for = _looked_for(tree)
        #: Whether the template reads `tools` anywhere.
        self.reads_tools = any(name.name == "tools" for name in tree.find_all(nodes.Name))
        _mark_loops(tree, 0)
        self._marked = environment.from_string(tree)

    def render(self, messages: list[dict[str, Any]], tools: Any = None, generation_prompt: bool = False) -> str:
        """Renders a conversation.

        Raises:
            Exception: of any kind: the template refuses it, or is wrong.
        """
        return self._render_plain(self._context(messages, tools, generation_prompt))

    def _render_plain(self, context: dict[str, Any]) -> str:
        # As Template.render does, which makes the same dict of the globals each time.
        found = self._plain.new_context(self._globals | context, shared=True)
        return self._plain.environment.concat(self._plain.root_render_func(found))

    def render_marked(
        self, messages: list[dict[str, Any]], tools: Any = None, generation_prompt: bool = False
    ) -> MarkedText:
        """Renders a conversation and says whose turn each part of the text is.

        Reserved characters that the template escapes, as JSON and Python do, are in the text as themselves.

        Raises:
            InputError: the template does something with its own text that marks in it disturb.
        """
        context = self._context(messages, tools, generation_prompt)
        text = self._marked.render(context | _markers(messages))
        if _without_marks(text).text != self._render_plain(context):
            raise InputError("the model's chat template changes the text of turns after it has put them together")
        return _without_marks(_ESCAPED.sub(_unescaped, text))

    def _context(self, messages: list[dict[str, Any]], tools: Any, generation_prompt: bool) -> dict[str, Any]:
        return {
            **self._variables,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": generation_prompt,
        }


def has_reserved(text: str) -> bool:
    """Whether a text has a character that stands for something else here."""
    return _RESERVED.search(text) is not None


def _unescaped(escaped: re.Match[str]) -> str:
    if escaped[0].startswith("\\U"):
        return chr(int(escaped[0][2:], 16))
    return json.loads(f'"{escaped[0]}"')


def _markers(messages: list[dict[str, Any]]) -> dict[str, Callable]:
    """The functions that the marked template calls: a turn begins, and it ends, if one was open there."""
    if len(messages) > _MESSAGES:
        raise InputError(f"has {len(messages):,} messages; allowed are {_MESSAGES:,}")
    index_of = {id(message): index for index, message in enumerate(messages)}
    open_turns: set[tuple[int, str]] = set()

    def turn(message: Any, level: int, sink: str) -> str:
        index = index_of.get(id(message))
        if index is None:
            return ""
        open_turns.add((level, sink))
        return chr(_FIRST_TURN + level * (_MESSAGES + 1) + index)

    def end(level: int, sink: str) -> str:
        if (level, sink) not in open_turns:
            return ""
        open_turns.discard((level, sink))
        return chr(_FIRST_END + level)

    return {_TURN: turn, _END: end}


def _without_marks(text: str) -> MarkedText:
    parts: list[str] = []
    owners: list[tuple[int, int | None]] = [(0, None)]
    open_at: dict[int, int] = {}
    length = last = 0
    for mark in _MARK.finditer(text):
        parts.append(text[last : mark.start()])
        length += mark.start() - last
        last = mark.end()
        code = ord(mark[0])
        level = code - _FIRST_END if code < _FIRST_TURN else (code - _FIRST_TURN) // (_MESSAGES + 1)
        open_at = {other: index for other, index in open_at.items() if other < level}
        if code >= _FIRST_TURN:
            open_at[level] = (code - _FIRST_TURN) % (_MESSAGES + 1)
        owners.append((length, open_at[min(open_at)] if len(set(open_at.values())) == 1 else None))
    parts.append(text[last:])
    return MarkedText("".join(parts), owners)


def _mark_loops(node: Any, level: int) -> None:
    """Adds to each loop what writes the marks; a loop in a loop is one level deeper."""
    from jinja2 import nodes

    for _, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        for child in list(children):
            if isinstance(child, nodes.For):
                inner = min(level + 1, _LEVELS - 1)
                sinks = ["", *_accumulators(child)]
                target = child.target.name if isinstance(child.target, nodes.Name) else None
                _mark_loops(child, inner)
                if target is None:
                    continue
                _mark_items(child.body, target, inner, sinks)
                child.body[:0] = [_write(sink, _TURN, [_name(target)], inner) for sink in sinks]
                child.body += [_write(sink, _END, [], inner) for sink in sinks]
                if isinstance(value, list):
                    # Also after `break`.
                    after = next(place for place, other in enumerate(value) if other is child) + 1
                    value[after:after] = [_write(sink, _END, [], inner) for sink in sinks]
            elif isinstance(child, nodes.Node):
                # A macro may be called inside a turn; its loops are deeper than any around the call.
                _mark_loops(child, _FIRST_LEVEL_OF_MACROS if isinstance(child, nodes.Macro) else level)


def _mark_items(body: list[Any], target: str, level: int, sinks: list[str]) -> None:
    """Marks after each `set message = messages[target]` in a loop over numbers."""
    from jinja2 import nodes

    for place in range(len(body) - 1, -1, -1):
        node = body[place]
        if isinstance(node, nodes.If):
            for part in (node.body, node.else_, *[other.body for other in node.elif_]):
                _mark_items(part, target, level, sinks)
        if (
            isinstance(node, nodes.Assign)
            and isinstance(node.target, nodes.Name)
            and isinstance(node.node, nodes.Getitem)
            and isinstance(node.node.arg, nodes.Name)
            and node.node.arg.name == target
        ):
            body[place + 1 : place + 1] = [_write(sink, _TURN, [_name(node.target.name)], level) for sink in sinks]


def _accumulators(loop: Any) -> list[str]:
    """Attributes to which a loop appends text, as `set ns.out = ns.out ~ text`, by "ns.out"."""
    from jinja2 import nodes

    found = []
    for assignment in loop.find_all(nodes.Assign):
        target, first = assignment.target, assignment.node
        while isinstance(first, (nodes.Concat, nodes.Add)):
            first = first.nodes[0] if isinstance(first, nodes.Concat) else first.left
        if (
            isinstance(target, nodes.NSRef)
            and first is not assignment.node
            and isinstance(assignment.node, nodes.Concat)
            and isinstance(first, nodes.Getattr)
            and isinstance(first.node, nodes.Name)
            and (first.node.name, first.attr) == (target.name, target.attr)
        ):
            found.append(f"{target.name}.{target.attr}")
    return sorted(set(found))


def _write(sink: str, function: str, arguments: list[Any], level: int) -> Any:
    """The statement that writes a mark to the output, or to what the template accumulates."""
    from jinja2 import nodes

    call = nodes.Call(_name(function), [*arguments, nodes.Const(level), nodes.Const(sink)], [], None, None)
    if not sink:
        return nodes.Output([call])
    name, attribute = sink.split(".")
    text = nodes.Concat([nodes.Getattr(_name(name), attribute, "load"), call])
    return nodes.Assign(nodes.NSRef(name, attribute), text)


def _name(name: str) -> Any:
    from jinja2 import nodes

    return nodes.Name(name, "load")


def _looked_for(tree: Any) -> re.Pattern[str]:
    texts = {text.strip() for text in _texts_looked_for(tree)} - {""}
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _texts_looked_for(tree: Any) -> Iterator[str]:
    from jinja2 import nodes

    def constants(node: Any) -> Iterator[str]:
        found = [node] if isinstance(node, nodes.Const) else node.find_all(nodes.Const)
        return (constant.value for constant in found if isinstance(constant.value, str))

    for comparison in tree.find_all(nodes.Compare):
        if any(operand.op in ("in", "notin") for operand in comparison.ops):
            yield from constants(comparison.expr)
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _METHODS:
            for argument in call.args:
                yield from constants(argument)
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name == "replace":
            for argument in filtered.args:
                yield from constants(argument)
    yield from (text for text in constants(tree) if _TAG.fullmatch(text))


def written_forms(text: str) -> Iterator[str]:
    """The ways in which templates write a text: as it is, in JSON, in JSON within JSON, as Python's repr."""
    yield text
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(json.dumps(text, ensure_ascii=False), ensure_ascii=False)[3:-3]
    yield repr(text)[1:-1]
