"""Texts to token ids, and parts of these texts to ranges of tokens."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from kfp_osft.shared.reporting.errors import InputError

# Native tokenizers split a text at these before anything else, so that parts of it can be encoded by themselves.
_LOCAL_PRE_TOKENIZERS = ("ByteLevel", "Split", "Digits", "Whitespace", "BertPreTokenizer", "Punctuation")
# Of an edge, so many characters before and behind it tell whether the tokenizer splits there; behind a line break or a
# tag one is enough.
_BEFORE_EDGE, _BEHIND_EDGE = 8, 2
_MOST_EDGES = 1 << 16


class Encoded(NamedTuple):
    """Token ids, and the tokens of each part as begin and end (exclusive), in order and not touching."""

    ids: list[int]
    ranges: list[tuple[int, int]]


class PartEncoder:
    """Encodes texts as the tokenizer does, without special tokens of its own, and finds the tokens of their parts.

    A token that is partly in a part belongs to it. Finding them by the offsets that the tokenizer reports takes a third
    more time than encoding; where a tokenizer splits texts by rules that look at near characters only, the pieces
    between the parts' edges are encoded instead. That the ids are the same is seen once for each kind of edge.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend if hasattr(backend, "encode_batch_fast") else None
        self._by_pieces = self._backend is not None and _splits_locally(self._backend)
        self._checked_backend = False
        self._edges: set[str] = set()

    def encode(self, texts: Sequence[str], parts: Sequence[list[tuple[int, int]]]) -> list[Encoded | InputError]:
        """Encodes each text.

        Args:
            texts: rendered conversations.
            parts: of each text, begin and end (exclusive) in characters, in order.

        Returns:
            For each text what it became, or an InputError where a token belongs to two turns.
        """
        if not texts:
            return []
        self._check_backend(texts)
        if self._backend is None:
            return [self._by_prefixes(text, of_text) for text, of_text in zip(texts, parts, strict=True)]
        found: list[Encoded | InputError | None] = [None] * len(texts)
        if self._by_pieces:
            self._encode_pieces(texts, parts, found)
        left = [index for index, one in enumerate(found) if one is None]
        if left:
            encodings = self._backend.encode_batch([texts[index] for index in left], add_special_tokens=False)
            for index, encoding in zip(left, encodings, strict=True):
                found[index] = _by_offsets(texts[index], parts[index], encoding.ids, encoding.offsets)
        return found

    def _check_backend(self, texts: Sequence[str]) -> None:
        """A tokenizer in Python, or one with steps of its own around the native one, shows in the first texts."""
        if self._checked_backend or self._backend is None:
            return
        self._checked_backend = True
        expected = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        if [encoding.ids for encoding in self._native(texts)] != expected:
            self._backend = None

    def _native(self, texts: Sequence[str]) -> list[Any]:
        return self._backend.encode_batch_fast(texts, add_special_tokens=False)

    def _encode_pieces(
        self, texts: Sequence[str], parts: Sequence[list[tuple[int, int]]], found: list[Encoded | InputError | None]
    ) -> None:
        pieces: list[str] = []
        unknown: dict[int, list[str]] = {}
        known = self._edges
        for index, (text, of_text) in enumerate(zip(texts, parts, strict=True)):
            last = 0
            for part in of_text:
                for edge in part:
                    pieces.append(text[last:edge])
                    last = edge
                    behind = 1 if text[edge - 1 : edge] in ("\n", ">") else _BEHIND_EDGE
                    context = text[max(edge - _BEFORE_EDGE, 0) : edge + behind]
                    if context not in known:
                        unknown.setdefault(index, []).append(context)
            pieces.append(text[last:])
        encoded = iter(self._native(pieces))
        for index, of_text in enumerate(parts):
            ids: list[int] = []
            ranges: list[tuple[int, int]] = []
            for _ in of_text:
                ids += next(encoded).ids
                begin = len(ids)
                ids += next(encoded).ids
                _add(ranges, begin, len(ids))
            ids += next(encoded).ids
            found[index] = Encoded(ids, ranges)
        if not unknown:
            return
        whole = self._native([texts[index] for index in unknown])
        if len(known) > _MOST_EDGES:
            known.clear()
        for (index, contexts), encoding in zip(unknown.items(), whole, strict=True):
            if encoding.ids == found[index].ids:
                known.update(contexts)
            else:
                found[index] = None

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
