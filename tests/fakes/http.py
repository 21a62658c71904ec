"""A local file server over HTTP, with the faults of real ones."""

import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import urlsplit

from fakes.local_server import LocalServer, QuietHandler


@dataclass
class File:
    """What is served at a path.

    Attributes:
        content: the bytes.
        etag: header; None for that of the content, "" for none.
        last_modified: header; "" for none.
        ranges: whether range requests are supported; If-Range is respected.
        framing: "length", "chunked", or "close" (neither; the end of the connection is the end of the file).
        headers: additional ones, which override the server's own.
        status: of each response; only 200 comes with the file.
        failures: how many responses, from the first on, are 503.
        seconds_a_byte: how long each byte of the answer takes.
        cuts: for the 1st, 2nd, ... response, after how many bytes of its body the connection is reset; None for never.
    """

    content: bytes
    etag: str | None = None
    last_modified: str = ""
    ranges: bool = True
    framing: str = "length"
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    failures: int = 0
    seconds_a_byte: float = 0.0
    cuts: list[int | None] = field(default_factory=list)


@dataclass
class HttpFileServer(LocalServer):
    """Serves `files` on 127.0.0.1 while it is entered.

    Attributes:
        files: by path, without the query.
        requests: path with query, Range and status of each request so far.
        on_piece: called before each piece of a body, with the path and the number of bytes sent.
        certificate: PEM file with key and certificate of a TLS server; empty for plain HTTP.
        reason: phrase of a 404.
    """

    files: dict[str, File] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    on_piece: Callable[[str, int], None] = lambda path, sent: None
    certificate: str = ""
    reason: str = "Not Found"

    def handler(self) -> type[QuietHandler]:
        return _Handler


class _Handler(QuietHandler):
    site: HttpFileServer

    def do_GET(self) -> None:
        file = self.site.files.get(urlsplit(self.path).path)
        asked = self.headers.get("Range", "")
        status, body, headers = self._answer(file, asked)
        self.site.requests.append((self.path, asked, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body is not None:
            self._send(file, body)

    def _answer(self, file: File | None, asked: str) -> tuple[int, bytes | None, dict[str, str]]:
        nothing = {"Content-Length": "0"}
        if file is None:
            # Also the reason phrase is somebody else's text.
            self.responses = {404: (self.site.reason, "")}
            return 404, None, nothing
        if file.failures:
            file.failures -= 1
            return 503, None, nothing
        if file.status != 200:
            return file.status, None, {**nothing, **file.headers}
        etag = f'"{sha256(file.content).hexdigest()[:16]}"' if file.etag is None else file.etag
        headers = {name: value for name, value in (("ETag", etag), ("Last-Modified", file.last_modified)) if value}
        body = file.content
        status = 200
        if asked and file.ranges and self.headers.get("If-Range", "") in ("", etag or "-", file.last_modified or "-"):
            begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if begin >= len(body):
                return 416, None, nothing
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[begin:]
        framing = {
            "length": {"Content-Length": str(len(body))},
            "chunked": {"Transfer-Encoding": "chunked"},
            "close": {"Connection": "close"},
        }[file.framing]
        return status, body, {**headers, **framing, **file.headers}

    def _send(self, file: File, body: bytes) -> None:
        cut = file.cuts.pop(0) if file.cuts else None
        step = 1 << 14
        for begin in range(0, len(body), step):
            piece = body[begin : begin + step]
            self.site.on_piece(urlsplit(self.path).path, begin)
            if cut is not None and begin + len(piece) > cut:
                self._write(file, body[begin:cut])
                self._reset()
                return
            self._write(file, piece)
        if file.framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = self.close_connection or file.framing == "close"

    def _write(self, file: File, piece: bytes) -> None:
        if file.framing == "chunked":
            self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n" if piece else b"")
        elif file.seconds_a_byte:
            for place in range(len(piece)):
                self.wfile.write(piece[place : place + 1])
                self.wfile.flush()
                time.sleep(file.seconds_a_byte)
        else:
            self.wfile.write(piece)
        self.wfile.flush()

    def _reset(self) -> None:
        # With no time to linger the system sends RST; what was sent before may still be under way.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
        self.close_connection = True
        self.connection.close()
