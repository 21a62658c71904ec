from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from helpers.small_tokenizers import KINDS, by_pattern, byte_level, sentencepiece
from kfp_osft.shared.chat import encoding
from kfp_osft.shared.chat.encoding import Encoded, PartEncoder
from kfp_osft.shared.chat.turns import Found, Layout
from kfp_osft.shared.reporting.errors import InputError

_BETWEEN = ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"]
# The answer with its end of turn.
_LEARNT = ((1, len(_BETWEEN[1])), (2, len("<|im_end|>")))
_SAID = strategies.text(max_size=12) | strategies.sampled_from(
    ["The quick fox", "isn't it?", "42", " 1234", "\n\n", "a  b", "東京 は", "<|im_end|>", ".", "é"]
)


class _Tokenizer:
    """What of a transformers tokenizer is used; with a native tokenizer behind it or without."""

    def __init__(self, backend: Any, is_native: bool = True, adds: int | None = None) -> None:
        self._inner, self._adds = backend, adds
        if is_native:
            self.backend_tokenizer = backend

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        first = [] if self._adds is None else [self._adds]
        return {"input_ids": [first + one.ids for one in self._inner.encode_batch(texts, add_special_tokens=False)]}


def _layout(literals: list[str] = _BETWEEN) -> Layout:
    return Layout(literals, [0, 1], [_LEARNT], [])


def _found(question: str, answer: str, layout: Layout) -> Found:
    pieces = [layout.literals[0], question, layout.literals[1], answer, layout.literals[2]]
    begin = len("".join(pieces[:3]))
    return Found([(begin, begin + len(answer) + len("<|im_end|>"))], pieces, layout)


def _expected(backend: Any, found: Found) -> Encoded:
    """By the tokenizer's offsets alone: a token that is partly in the learnt part belongs to it."""
    whole = backend.encode("".join(found.pieces), add_special_tokens=False)
    ((begin, end),) = found.learnt
    inside = [index for index, (start, stop) in enumerate(whole.offsets) if stop > begin and start < end]
    return Encoded(whole.ids, [(inside[0], inside[-1] + 1)])


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("is_native", [True, False])
def test_ids_are_those_of_the_whole_text_and_ranges_those_of_its_offsets(make: Callable[[], Any], is_native: bool):
    backend = make()
    encoder, layout = PartEncoder(_Tokenizer(backend, is_native)), _layout()

    @settings(max_examples=150 if is_native else 40, deadline=None)
    @given(strategies.lists(strategies.tuples(_SAID, _SAID), min_size=1, max_size=5))
    def same(said: list[tuple[str, str]]) -> None:
        rows = [_found(*one, layout) for one in said]
        for row, encoded in zip(rows, encoder.encode(rows), strict=True):
            if isinstance(encoded, InputError):
                # Without offsets, a token that joins two turns cannot be told apart.
                assert not is_native
                continue
            expected = _expected(backend, row)
            assert encoded.ids == expected.ids
            ((first, last),), ((begin, end),) = encoded.ranges, expected.ranges
            assert last == end
            # A token may be of the header and of the answer, as a line break before a line break is.
            assert begin <= first <= begin + 1

    same()


@pytest.mark.parametrize(("make", "by_pieces"), [(byte_level, True), (by_pattern, True), (sentencepiece, False)])
def test_only_tokenizers_that_split_by_near_characters_encode_by_pieces(make: Callable[[], Any], by_pieces: bool):
    assert PartEncoder(_Tokenizer(make()))._by_pieces is by_pieces


def test_a_text_whose_pieces_give_other_ids_is_encoded_whole():
    backend, layout = byte_level(), _layout(["user:", " assistant", "<|im_end|>\n"])
    rows = [_found(" The fox", said, layout._replace(learnt=[((1, 10), (2, 10))])) for said in ("s jump", " jumps")]
    texts = ["".join(row.pieces) for row in rows]
    encoded = PartEncoder(_Tokenizer(backend)).encode(rows)
    assert [one.ids for one in encoded] == [backend.encode(text, add_special_tokens=False).ids for text in texts]


def test_a_tokenizer_with_steps_of_its_own_around_the_native_one_is_asked_itself():
    backend, layout = byte_level(), _layout()
    (encoded,) = PartEncoder(_Tokenizer(backend, adds=7)).encode([_found("Hi", "The fox", layout)])
    native = _expected(backend, _found("Hi", "The fox", layout))
    assert encoded.ids == [7, *native.ids]
    assert encoded.ranges == [(begin + 1, end + 1) for begin, end in native.ranges]


def test_a_token_of_a_turns_end_and_of_what_follows_is_an_error():
    backend = byte_level()
    joined = Layout(["", "", "fox"], [0, 1], [((1, 0), (2, 0))], [])
    row = Found([(0, 6)], ["", "", "", "The q", "uick fox"], joined)
    (encoded,) = PartEncoder(_Tokenizer(backend)).encode([row])
    assert isinstance(encoded, InputError)
    assert str(encoded) == "the model's tokenizer makes one token of a turn's end and of what follows: ' quick'"


def test_no_texts_are_no_samples():
    assert PartEncoder(_Tokenizer(byte_level())).encode([]) == []


def test_what_it_knows_of_templates_has_a_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "_MOST_TEMPLATES", 2)
    monkeypatch.setattr(encoding, "_MOST_EDGES", 4)
    backend = byte_level()
    encoder = PartEncoder(_Tokenizer(backend))
    for number in range(12):
        row = _found(f"Hi {number}", f"{number} foxes", _layout([f"{number}{_BETWEEN[0]}", *_BETWEEN[1:]]))
        assert encoder.encode([row]) == [_expected(backend, row)]
    assert len(encoder._templates) <= 4
