from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from helpers.small_tokenizers import ADDED, by_pattern, byte_level, sentencepiece, whole_sentences
from kfp_osft.shared.chat import word_cache
from kfp_osft.shared.chat.word_cache import WordCache

_WORDS = strategies.sampled_from(
    ["fox", "Spain", "isn't", "42", "1234567", "3.14,", "naïve", "東京", "(a", "b)", "", "\n", "\t", "é", "👍", *ADDED]
)
_TEXTS = strategies.lists(strategies.lists(_WORDS | strategies.text(max_size=4), max_size=8).map(" ".join), max_size=4)


def _whole(backend: Any, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]


@pytest.mark.parametrize("make", [byte_level, by_pattern])
def test_texts_have_the_ids_that_the_tokenizer_gives_the_whole(make: Callable[[], Any]):
    backend = make()
    words = WordCache(backend)
    assert words.works

    @settings(max_examples=200, deadline=None)
    @given(_TEXTS)
    def same(texts: list[str]) -> None:
        assert words.encode(texts) == _whole(backend, texts)

    same()


@pytest.mark.parametrize("make", [whole_sentences, sentencepiece])
def test_it_does_not_work_where_a_token_may_go_on_behind_a_space(make: Callable[[], Any]):
    assert not WordCache(make()).works


@pytest.mark.parametrize("text", ["a  b", "a\tb", "<|im_end|> a", "a <|im_end|>b", " \n a"])
def test_unusual_blanks_and_added_tokens_are_encoded_with_the_whole_text(text: str):
    backend = byte_level()
    assert WordCache(backend).encode([text, "fox jumps", text]) == _whole(backend, [text, "fox jumps", text])


def test_it_forgets_when_there_are_too_many_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(word_cache, "_MOST_WORDS", 3)
    backend = byte_level()
    words = WordCache(backend)
    texts = [f"fox{number} jumps{number} over{number}" for number in range(20)]
    assert [words.encode([text]) for text in texts] == [_whole(backend, [text]) for text in texts]
    assert max(len(words._first), len(words._later)) <= 5
