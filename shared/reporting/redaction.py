"""What may be shown: URIs without what may be secret in them, and a stage's output without secrets' values."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO
from urllib.parse import unquote

from kfp_osft.shared.parameters.environment import (
    SHORTEST_SECRET,
    USER_INFO,
    blot_out,
    holds_secret,
    secret_values,
)

#: Stands for what was taken out.
SECRET = "***"
# What this process has learnt to be secret beside its environment.
_KEPT: set[str] = set()
# Also with the slips of a person who types it.
_URI = re.compile(
    r"(?P<scheme>\s*[A-Za-z][\w+.-]*:/+)(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?", re.DOTALL
)
_USER_WITHOUT_SCHEME = re.compile(r"\s*([\w+.-]*:?[/\\]{2,})?[^/\\\s:@]+:\S+@(?=[\w.-]+(:\d+)?([/\\]|$))")
# A token in the place of a user; hf://name@revision is no such thing.
_USER_ALONE = re.compile(r"(?<=://)(?<!hf://)[^/\s:@\"'?#]+@")
# URLs within a text: what signs a link or lets somebody in.
# The colon behind it is the sentence's.
_SIGNATURE = re.compile(
    r"([?&;#][\w.-]*(?:token|signature|secret|passw|credential|auth|api_?key|sig)[\w.-]*=)[^&;\s\"'#]+(?<!:)",
    re.IGNORECASE,
)
_PATH_PARAMETER = re.compile(r";([^;=/?#]+)=[^;/?#]*")
# What a terminal obeys: escape sequences (ECMA-48) and other control characters, but for tabs and ends of lines; and
# what turns the direction of a text around, so that it reads as another one.
_TERMINAL = re.compile(
    "\x1b\\][^\x07\x1b\n]*(\x07|\x1b\\\\)?|\x1b\\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|"
    "[\u202a-\u202e\u2066-\u2069]"
)


def redacted(uri: str) -> str:
    """The URI without user name and password, the values of its query (signatures, tokens), and its fragment.

    All values: which parameter is a secret differs from server to server. A path, and a Hugging Face id with its
    @revision, stay as they are.
    """
    uri = _without_user(uri)
    parts = _URI.match(uri)
    if not parts:
        return _USER_WITHOUT_SCHEME.sub(f"{SECRET}@", uri, count=1)
    authority, path, query = parts["authority"], parts["path"], parts["query"]
    if "@" in authority and not parts["scheme"].strip().startswith("hf:"):
        authority = f"{SECRET}@{authority.rpartition('@')[2]}"
    path = _PATH_PARAMETER.sub(rf";\1={SECRET}", path)
    if query is not None:
        query = "?" + "&".join(
            f"{name}={SECRET}" if equals else SECRET
            for name, equals, _ in (pair.partition("=") for pair in query.split("&"))
        )
    return f"{parts['scheme']}{authority}{path}{query or ''}"


def shown(text: str, secrets: Iterable[str] | None = None) -> str:
    """A text of others as it may be shown: without secrets, passwords and signatures in URLs, and what a terminal
    obeys.

    Args:
        text: the text.
        secrets: the values to blot out; by default those of this process's environment.
    """
    known = secret_values(os.environ) if secrets is None else secrets
    text = blot_out(_TERMINAL.sub("", text), sorted({*known, *_KEPT}, key=len, reverse=True))
    return _SIGNATURE.sub(rf"\1{SECRET}", _without_user(text))


def keep_secret(*values: str) -> None:
    """From now on `shown` blots these out, too."""
    _KEPT.update(value.strip() for value in values if len(value.strip()) >= SHORTEST_SECRET)


def keep_secrets_of(uri: str) -> None:
    """From now on `shown` blots out the password and the signatures in this URI wherever they stand."""
    parts = [match["password"] for match in USER_INFO.finditer(uri)]
    parts += [match[0].removeprefix(match[1]) for match in _SIGNATURE.finditer(uri)]
    keep_secret(*parts, *map(unquote, parts))


def _of_arguments(value: Any) -> Iterator[str]:
    """The secrets among the variables, by name and value, in what KFP gives a stage as arguments, and prints."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            yield from _of_arguments(json.loads(value))
    elif isinstance(value, dict):
        name, text = value.get("name"), value.get("value")
        if isinstance(name, str) and isinstance(text, str) and holds_secret(name, text):
            yield text
        yield from (found for each in value.values() for found in _of_arguments(each))
    elif isinstance(value, list):
        yield from (found for each in value for found in _of_arguments(each))


def _without_user(text: str) -> str:
    text = USER_INFO.sub(rf"\g<scheme>{SECRET}@", text)
    return blot_out(_USER_ALONE.sub(f"{SECRET}@", text), ())


def guard_output() -> None:
    """From now on this process prints, logs and raises nothing but what `shown` lets through."""
    keep_secret(*_of_arguments(sys.argv))
    _replace_streams(*map(_guarded, (sys.stdout, sys.stderr)))


@contextmanager
def guarded_output() -> Iterator[None]:
    """guard_output for the length of a block."""
    earlier = sys.stdout, sys.stderr
    _replace_streams(*map(_guarded, earlier))
    try:
        yield
    finally:
        _replace_streams(*earlier)


def unguarded(stream: TextIO) -> TextIO:
    """The stream itself, for what draws on a terminal and passes `shown` texts only."""
    return getattr(stream, "stream", stream) if isinstance(stream, _Guarded) else stream


def _guarded(stream: TextIO | None) -> "_Guarded":
    # None: closed by whoever started this process.
    return _Guarded(open(os.devnull, "w", encoding="utf-8") if stream is None else stream)


def _replace_streams(*streams: Any) -> None:
    replaced = dict(zip(map(id, (sys.stdout, sys.stderr)), streams, strict=True))
    for handler in _handlers():
        # A handler of the time before has the stream itself; some look it up each time, and cannot be given one.
        if stream := replaced.get(id(getattr(handler, "stream", None))):
            with suppress(AttributeError):
                handler.setStream(stream)
    sys.stdout, sys.stderr = streams


def _handlers() -> list[logging.StreamHandler]:
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    return [handler for logger in loggers for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]


class _Guarded:
    """A text stream that writes what `shown` lets through, also what its encoding has no character for; all else is the
    stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        seen, encoding = shown(text), self.stream.encoding or "utf-8"
        # Names that are not UTF-8, and a locale of ASCII.
        self.stream.write(seen.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
