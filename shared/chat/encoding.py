"""Texts to token ids, and parts of these texts to ranges of tokens."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from kfp_osft.shared.chat.turns import Found, Layout
from kfp_osft.shared.chat.word_cache import WordCache
from kfp_osft.shared.reporting.errors import InputError

# Native tokenizers split a text at these before anything else, so that parts of it can be encoded by themselves.
_LOCAL_PRE_TOKENIZERS = ("ByteLevel", "Split", "Digits", "Whitespace", "BertPreTokenizer", "Punctuation")
# Of the edge of what a row says, so many of the template's characters, and so many of its own, tell whether the
# tokenizer splits there; behind a line break or a tag one is enough.
_BESIDE_EDGE, _NEAR_EDGE = 12, 2
_MOST_EDGES, _MOST_TEMPLATES = 1 << 16, 4096


class Encoded(NamedTuple):
    """Token ids, and the tokens of each part as begin and end (exclusive), in order and not touching."""

    ids: list[int]
    ranges: list[tuple[int, int]]


class PartEncoder:
    """Encodes texts as the tokenizer does, without special tokens of its own, and finds the tokens of their parts.

    A token that is partly in a part belongs to it. Finding them by the offsets that the tokenizer reports takes a
    third more time than encoding; where a tokenizer splits texts by rules that look at near characters only, what the
    rows say is encoded by itself, and what the template writes once. That the ids are those of the whole text is seen
    for the first row with an edge of a kind.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend: Any = backend if hasattr(backend, "encode_batch_fast") else None
        self._by_pieces = self._backend is not None and _splits_locally(self._backend)
        self._words: WordCache | None = None
        self._checked_backend = False
        self._edges: set[tuple[str, str | int]] = set()
        self._templates: dict[int, tuple[list[list[tuple[list[int], bool, bool]]], Layout]] = {}

    def encode(self, rendered: Sequence[Found]) -> list[Encoded | InputError]:
        """Encodes each text.

        Returns:
            For each text what it became, or an InputError where a token belongs to two turns.
        """
        if not rendered:
            return []
        if not self._checked_backend:
            self._check_backend(["".join(one.pieces) for one in rendered])
        if self._backend is None:
            return [self._by_prefixes("".join(one.pieces), one.learnt) for one in rendered]
        encoded = self._encode_pieces(rendered) if self._by_pieces else [None] * len(rendered)
        left = [one for one, done in zip(rendered, encoded, strict=True) if done is None]
        by_offsets = iter(self._encode_whole(left) if left else [])
        return [next(by_offsets) if done is None else done for done in encoded]

    def _check_backend(self, texts: Sequence[str]) -> None:
        """A tokenizer in Python, or one with steps of its own around the native one, shows in the first texts."""
        self._checked_backend = True
        if self._backend is None:
            return
        expected = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        if [encoding.ids for encoding in self._native(texts)] != expected:
            self._backend = None

    def _native(self, texts: Sequence[str]) -> list[Any]:
        return self._backend.encode_batch_fast(texts, add_special_tokens=False)

    def _encode_whole(self, rendered: Sequence[Found]) -> list[Encoded | InputError]:
        texts = ["".join(one.pieces) for one in rendered]
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            _by_offsets(text, one.learnt, encoding.ids, encoding.offsets)
            for text, one, encoding in zip(texts, rendered, encodings, strict=True)
        ]

    def _encode_pieces(self, rendered: Sequence[Found]) -> list[Encoded | None]:
        """Encodes what the rows say; what templates write around it is the same from row to row, and so are its ids.

        Returns:
            None for a text whose ids as a whole are others.
        """
        encoded: list[Encoded] = []
        said = [piece for one in rendered for piece in one.pieces[1::2]]
        ids_of_said = iter(self._encode_said(said))
        unknown: dict[int, list[tuple[str, str | int]]] = {}
        known = self._edges
        for index, one in enumerate(rendered):
            template = self._templates.get(id(one.layout))
            if template is None:
                template = self._templates[id(one.layout)] = self._of_template(one.layout)
            literals, _ = template
            if (of_layout := ("", id(one.layout))) not in known:
                unknown.setdefault(index, []).append(of_layout)
            ids: list[int] = []
            ranges: list[tuple[int, int]] = []
            begin = 0
            place = 0
            for literal in literals:
                for part, starts, ends in literal:
                    if starts:
                        begin = len(ids)
                    if ends:
                        _add(ranges, begin, len(ids))
                    ids += part
                if place < len(one.pieces) - 1:
                    ids += next(ids_of_said)
                    before, text, behind = one.pieces[place : place + 3]
                    for edge in (
                        (before[-_BESIDE_EDGE:], text[: 1 if before[-1:] in ("\n", ">") else _NEAR_EDGE]),
                        (text[-_NEAR_EDGE:], behind[:_BESIDE_EDGE]),
                    ):
                        if edge not in known:
                            unknown.setdefault(index, []).append(edge)
                    place += 2
            encoded.append(Encoded(ids, ranges))
        if not unknown:
            return [*encoded]
        whole = self._native(["".join(rendered[index].pieces) for index in unknown])
        if len(known) > _MOST_EDGES:
            known.clear()
        others: set[int] = set()
        for (index, edges), encoding in zip(unknown.items(), whole, strict=True):
            if encoding.ids == encoded[index].ids:
                known.update(edges)
            else:
                others.add(index)
        return [None if index in others else one for index, one in enumerate(encoded)]

    def _encode_said(self, said: list[str]) -> list[list[int]]:
        if self._words is None:
            self._words = WordCache(self._backend)
        if self._words.works:
            return self._words.encode(said)
        return [encoding.ids for encoding in self._native(said)]

    def _of_template(self, layout: Layout) -> tuple[list[list[tuple[list[int], bool, bool]]], Layout]:
        """The ids of what the template writes, cut where a learnt part begins or ends, and whether one does."""
        edges: dict[int, list[tuple[int, bool, bool]]] = {}
        for (first, begin), (last, end) in layout.learnt:
            edges.setdefault(first, []).append((begin, True, False))
            edges.setdefault(last, []).append((end, False, True))
        literals = []
        for number, literal in enumerate(layout.literals):
            cuts = [(0, False, False), *edges.get(number, [])]
            ends = [place for place, _, _ in cuts[1:]] + [len(literal)]
            parts = [literal[place:end] for (place, _, _), end in zip(cuts, ends, strict=True)]
            encodings = self._native(parts)
            literals.append(
                [(encoding.ids, starts, stops) for encoding, (_, starts, stops) in zip(encodings, cuts, strict=True)]
            )
        if len(self._templates) > _MOST_TEMPLATES:
            self._templates.clear()
            self._edges.clear()
        # The layout is kept, or another could have its id.
        return literals, layout

    def _by_prefixes(self, text: str, parts: list[tuple[int, int]]) -> Encoded | InputError:
        """Where nothing reports offsets: the beginning of a text has the first of its tokens."""

        def encode(text: str) -> list[int]:
            return self._tokenizer([text], add_special_tokens=False)["input_ids"][0]

        ids = encode(text)
        ranges: list[tuple[int, int]] = []
        for begin, end in parts:
            before, until = encode(text[:begin]), encode(text[:end])
            if ids[: len(before)] != before or ids[: len(until)] != until:
                return InputError("the model's tokenizer joins a turn with the text beside it, and reports no offsets")
            _add(ranges, len(before), len(until))
        return Encoded(ids, ranges)


def _splits_locally(backend: Any) -> bool:
    made_of = json.loads(backend.to_str())
    if (made_of.get("normalizer") or {}).get("type") not in (None, "NFC"):
        return False
    pre_tokenizer = made_of.get("pre_tokenizer") or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return bool(steps) and all(step.get("type") in _LOCAL_PRE_TOKENIZERS for step in steps)


def _by_offsets(
    text: str, parts: list[tuple[int, int]], ids: list[int], offsets: list[tuple[int, int]]
) -> Encoded | InputError:
    ranges: list[tuple[int, int]] = []
    token = 0
    for begin, end in parts:
        while token < len(ids) and offsets[token][1] <= begin:
            token += 1
        first = token
        while token < len(ids) and offsets[token][0] < end:
            token += 1
        if token > first and text[end : offsets[token - 1][1]].strip():
            return InputError(
                f"the model's tokenizer makes one token of a turn's end and of what follows: "
                f"{text[offsets[token - 1][0] : offsets[token - 1][1]]!r}"
            )
        _add(ranges, first, token)
    return Encoded(ids, ranges)


def _add(ranges: list[tuple[int, int]], begin: int, end: int) -> None:
    if ranges and ranges[-1][1] == begin:
        begin = ranges.pop()[0]
    if begin < end:
        ranges.append((begin, end))
