"""Names of others in a chart, a model card or a message."""

import html
import re

# Control characters and those that turn the direction of a text around; halves of UTF-16's pairs, by which Python
# stands for bytes of a name that are not UTF-8; and what XML (section 2.2), and with it SVG, has no place for.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

# What CommonMark, its tables and the Hub's formulas ($) read inside a line. A _ within a word is none of it.
_SPECIAL = re.compile(r"([\\`*\[\]|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def plain_text(text: str) -> str:
    """The text in one line, with U+FFFD in the place of each character that cannot be shown or encoded."""
    return _UNPRINTABLE.sub("\ufffd", " ".join(text.split()))


def markdown_text(text: object) -> str:
    """The text as Markdown that shows it as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", html.escape(plain_text(str(text)), quote=False))
