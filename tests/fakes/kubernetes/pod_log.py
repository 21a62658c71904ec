"""The log of one run of a container, and reading it with the kubelet's options, followed or not."""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from fakes.kubernetes.status import ApiError, invalid

#: Lines end with a newline alone: progress bars write carriage returns within one.
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")


class LogCut(Exception):
    """The connection that reads this log must be reset."""


@dataclass
class Line:
    """nanoseconds: since the epoch; whole: its newline has come."""

    nanoseconds: int
    text: bytes
    whole: bool

    @property
    def stamp(self) -> bytes:
        """RFC 3339 with nine digits, as the kubelet writes it."""
        seconds, rest = divmod(self.nanoseconds, 1_000_000_000)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z ".encode()


@dataclass
class _Reader:
    """A following connection: how much of the log has been sent to it."""

    seen: int = 0
    cut: bool = False


@dataclass(frozen=True)
class LogOptions:
    """The query of pods/log; see PodLogOptions of the Kubernetes API."""

    container: str = ""
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since: float | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None

    @classmethod
    def of(cls, query: dict[str, str], pod: str) -> Self:
        """Raises ApiError as the server's validation does."""
        numbers: dict[str, int] = {}
        for name, least in {"sinceSeconds": 1, "tailLines": 0, "limitBytes": 1}.items():
            if name in query:
                try:
                    numbers[name] = int(query[name])
                except ValueError:
                    raise ApiError(400, f'strconv.ParseInt: parsing "{query[name]}": invalid syntax') from None
                if numbers[name] < least:
                    bound = "must be greater than 0" if least else "must be greater than or equal to 0"
                    raise invalid(
                        "PodLogOptions",
                        "",
                        pod,
                        [
                            {
                                "reason": "FieldValueInvalid",
                                "field": name,
                                "message": f"Invalid value: {numbers[name]}: {bound}",
                            }
                        ],
                    )
        if "sinceSeconds" in query and "sinceTime" in query:
            raise invalid(
                "PodLogOptions",
                "",
                pod,
                [
                    {
                        "reason": "FieldValueForbidden",
                        "field": "",
                        "message": "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
                    }
                ],
            )
        since = None
        if "sinceSeconds" in numbers:
            since = time.time() - numbers["sinceSeconds"]
        elif "sinceTime" in query:
            # The API server passes it to the kubelet in whole seconds.
            since = float(int(datetime.fromisoformat(query["sinceTime"]).timestamp()))
        flags = {name: query.get(name) in ("true", "1", "True") for name in ("follow", "previous", "timestamps")}
        return cls(
            query.get("container", ""),
            since=since,
            tail_lines=numbers.get("tailLines"),
            limit_bytes=numbers.get("limitBytes"),
            **flags,
        )


class ContainerLog:
    """What one run of a container wrote; `changed` guards it."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._lines: list[Line] = []
        self._size = 0
        self._readers: list[_Reader] = []
        self.ended = False
        self.total_readers = 0

    def write(self, text: bytes) -> None:
        """Appends; every newline in it ends a line, which carries the time at which its first byte came."""
        with self._changed:
            for part in _LINES.findall(text):
                if not self._lines or self._lines[-1].whole:
                    newest = self._lines[-1].nanoseconds if self._lines else 0
                    self._lines.append(Line(max(time.time_ns(), newest + 1), b"", False))
                self._lines[-1].text += part
                self._lines[-1].whole = part.endswith(b"\n")
            self._size += len(text)
            self._changed.notify_all()

    def end(self) -> None:
        """The container has ended: followers read the rest, and then the end."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        with self._changed:
            return b"".join(line.text for line in self._lines).decode(errors="replace")

    @property
    def readers(self) -> int:
        """Number of connections that follow it."""
        return len(self._readers)

    def cut(self, seconds: float) -> None:
        """Resets the connections that follow it, once everything written has been sent to them."""
        with self._changed:
            condemned = list(self._readers)
            self._changed.wait_for(lambda: all(reader.seen == self._size for reader in condemned), seconds)
            for reader in condemned:
                reader.cut = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not any(reader in self._readers for reader in condemned), seconds)

    def read(self, options: LogOptions) -> Iterator[bytes]:
        """Yields the data to send; b"" from time to time while there is none.

        Raises LogCut where the connection is to be reset.
        """
        if not options.follow:
            with self._changed:
                pieces = self._selected(options)
            yield from self._bounded(pieces, options)
            return
        reader = _Reader()
        with self._changed:
            self._readers.append(reader)
            self.total_readers += 1
            self._changed.notify_all()
        try:
            yield from self._bounded(self._followed(reader, options), options)
        finally:
            with self._changed:
                self._readers.remove(reader)
                self._changed.notify_all()

    def _selected(self, options: LogOptions) -> list[bytes]:
        lines = [line for line in self._lines if line.whole or self.ended]
        if options.tail_lines is not None:
            lines = lines[max(0, len(lines) - options.tail_lines) :]
        return [
            (line.stamp if options.timestamps else b"") + line.text
            for line in lines
            if options.since is None or line.nanoseconds >= options.since * 1e9
        ]

    def _followed(self, reader: _Reader, options: LogOptions) -> Iterator[bytes]:
        first = True
        index = offset = 0
        while True:
            with self._changed:
                if first and options.tail_lines is not None:
                    index = max(0, len(self._lines) - options.tail_lines)
                first = False
                pieces = []
                while index < len(self._lines):
                    line = self._lines[index]
                    if options.since is None or line.nanoseconds >= options.since * 1e9:
                        stamp = line.stamp if options.timestamps and not offset and line.text else b""
                        pieces.append(stamp + line.text[offset:])
                    offset = len(line.text)
                    if not line.whole:
                        break
                    index, offset = index + 1, 0
                size, ended = self._size, self.ended
            yield b"".join(pieces)
            with self._changed:
                # Back here, what was yielded has been written to the connection.
                reader.seen = size
                self._changed.notify_all()
                if reader.cut:
                    raise LogCut
                if ended:
                    return
                if size == self._size and not self.ended:
                    self._changed.wait(0.05)

    @staticmethod
    def _bounded(pieces: Iterator[bytes] | list[bytes], options: LogOptions) -> Iterator[bytes]:
        left = options.limit_bytes
        for piece in pieces:
            if left is None:
                yield piece
                continue
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return
