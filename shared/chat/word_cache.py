"""Token ids of texts word by word, for tokenizers that split at blanks anyway: most words have been there before."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

_MOST_WORDS = 1 << 16
# Blanks beside each other, and all but the space and the line break: there, words are not told by spaces alone.
_UNUSUAL_BLANKS = re.compile(r"\s\s|[^\S \n]")
# Patterns of tokenizers ask for general categories; so many characters of each stand for all.
_OF_A_CATEGORY = 2


class WordCache:
    """Encodes texts by what their words became before.

    A tokenizer's pattern splits a text before it merges anything. Where it always splits before a single space,
    whatever is around that, the ids of a text are those of its words. Whether it does is tried with characters of all
    categories.

    Args:
        backend: a tokenizers.Tokenizer.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._first: dict[str, list[int]] = {}
        self._later: dict[str, list[int]] = {}
        added = [token.content for token in backend.get_added_tokens_decoder().values()]
        # Added tokens are found before the text is split, and may take blanks along: texts that may hold one are
        # encoded whole, and so are those with several blanks, for which some tokenizers have tokens.
        self._begins = sorted({content[:1] for content in added if content.strip()})
        self.works = _splits_before_spaces(backend)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens around it."""
        if max(len(self._first), len(self._later)) > _MOST_WORDS:
            self._first.clear()
            self._later.clear()
        words = [text.split(" ") if self._is_usual(text) else None for text in texts]
        self._look_up(self._first, {of_text[0] for of_text in words if of_text}, "")
        self._look_up(self._later, set(chain.from_iterable(of_text[1:] for of_text in words if of_text)), " ")
        whole = iter(self._encode([text for text, of_text in zip(texts, words, strict=True) if of_text is None]))
        first, later = self._first, self._later.__getitem__
        return [
            next(whole) if of_text is None else [*first[of_text[0]], *chain.from_iterable(map(later, of_text[1:]))]
            for of_text in words
        ]

    def _is_usual(self, text: str) -> bool:
        return not _UNUSUAL_BLANKS.search(text) and not any(begin in text for begin in self._begins)

    def _look_up(self, known: dict[str, list[int]], words: set[str], before: str) -> None:
        new = [word for word in words if word not in known]
        for word, ids in zip(new, self._encode([before + word for word in new]), strict=True):
            known[word] = ids

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def _splits_before_spaces(backend: Any) -> bool:
    """Whether the tokenizer splits before a single space, between characters of any two categories."""
    some: dict[str, list[str]] = {}
    for code in chain(range(33, 0x3000), range(0x4E00, 0x4E10), range(0x1F600, 0x1F610)):
        character = chr(code)
        of_category = some.setdefault(unicodedata.category(character), [])
        if code < 127 or (len(of_category) < _OF_A_CATEGORY and not character.isspace()):
            of_category.append(character)
    characters = [character for category, found in some.items() if category[0] not in ("C", "Z") for character in found]
    for before in characters:
        # Each pair between two line breaks, so that none is beside another.
        text = "\n".join(f"{before} {behind}" for behind in characters)
        begins = {begin for _, (begin, _) in backend.pre_tokenizer.pre_tokenize_str(text)}
        if not begins.issuperset(range(1, len(text), 4)):
            return False
    return True
