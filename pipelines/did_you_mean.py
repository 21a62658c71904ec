"""What somebody may have meant who typed a name that is not known."""

import difflib
from collections.abc import Iterable, Mapping


def did_you_mean(word: str, known: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """ "; did you mean ...?", or nothing if no known word is close."""
    if synonyms and word in synonyms:
        return f"; did you mean {synonyms[word]}?"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
