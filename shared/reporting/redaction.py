"""What may be shown: URIs without what may be secret in them, and a stage's output without secrets' values."""

import logging
import os
import re
import sys
from typing import Any, TextIO

from kfp_osft.shared.parameters.environment import blot_out, secret_values

#: Stands for what was taken out.
SECRET = "***"
# Also with the slips of a person who types it.
_URI = re.compile(
    r"(?P<scheme>\s*[A-Za-z][\w+.-]*:/+)(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?", re.DOTALL
)
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
_USER_WITHOUT_SCHEME = re.compile(r"\s*[^/\s:@]+:[^/\s]+@(?=[\w.-]+(/|$))")
# URLs within a text: a password, and what signs a link or lets somebody in.
_PASSWORD = re.compile(r"(?<=://)[^/\s@:\"']*:[^\s@\"']+@")
# The colon behind it is the sentence's.
_SIGNATURE = re.compile(
    r"([?&;][\w.-]*(?:token|signature|secret|passw|credential|auth|api_?key|sig)[\w.-]*=)[^&;\s\"'#]+(?<!:)",
    re.IGNORECASE,
)
_PATH_PARAMETER = re.compile(r";([^;=/?#]+)=[^;/?#]*")
# What a terminal obeys: escape sequences (ECMA-48) and other control characters, but for tabs and ends of lines.
_TERMINAL = re.compile(
    "\x1b\\][^\x07\x1b]*(\x07|\x1b\\\\)?|\x1b\\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


def redacted(uri: str) -> str:
    """The URI without user name and password, the values of its query (signatures, tokens), and its fragment.

    All values: which parameter is a secret differs from server to server. A path, and a Hugging Face id with its
    @revision, stay as they are.
    """
    parts = _URI.match(uri)
    if not parts:
        return _USER_WITHOUT_SCHEME.sub(f"{SECRET}@", uri, count=1)
    if parts["scheme"].strip().startswith("hf:") and ":" not in parts["authority"]:
        return uri
    authority, path, query = parts["authority"], parts["path"], parts["query"]
    rest = uri[parts.end("scheme") :]
    if "@" in rest and "@" not in authority and not _HOST_AND_PORT.fullmatch(authority):
        # A password with a slash, a question mark or a hash in it.
        return f"{parts['scheme']}{SECRET}@" + redacted(f"//{rest.rpartition('@')[2]}").removeprefix("//")
    if "@" in authority:
        authority = f"{SECRET}@{authority.rpartition('@')[2]}"
    path = _PATH_PARAMETER.sub(rf";\1={SECRET}", path)
    if query is not None:
        query = "?" + "&".join(
            f"{name}={SECRET}" if equals else SECRET
            for name, equals, _ in (pair.partition("=") for pair in query.split("&"))
        )
    return f"{parts['scheme']}{authority}{path}{query or ''}"


def shown(text: str) -> str:
    """A text of others as it may be shown: without the secrets of this process's environment, passwords and signatures
    in URLs, and what a terminal obeys."""
    text = blot_out(_TERMINAL.sub("", text), secret_values(os.environ))
    return _SIGNATURE.sub(rf"\1{SECRET}", _PASSWORD.sub(f"{SECRET}@", text))


def guard_output() -> None:
    """From now on this process prints, logs and raises nothing but what `shown` lets through."""
    streams = {id(sys.stdout): _Guarded(sys.stdout), id(sys.stderr): _Guarded(sys.stderr)}
    for handler in _handlers():
        # A handler of the time before has the stream itself.
        if guarded := streams.get(id(handler.stream)):
            handler.setStream(guarded)  # pyright: ignore[reportArgumentType]
    sys.stdout, sys.stderr = streams[id(sys.stdout)], streams[id(sys.stderr)]


def _handlers() -> list[logging.StreamHandler]:
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    return [handler for logger in loggers for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]


class _Guarded:
    """A text stream that writes what `shown` lets through; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(shown(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
