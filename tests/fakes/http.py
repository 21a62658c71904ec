"""A web server of files on this computer, with the faults that real ones have."""

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit


@dataclass
class File:
    """What is served at a path.

    Attributes:
        content: the bytes.
        etag: header; None for that of the content, "" for none.
        last_modified: header; "" for none.
        ranges: whether a part can be asked for; If-Range is respected.
        framing: "length", "chunked", or "close" (neither; the connection's end is the file's).
        headers: more of them; they go before those of the server's own.
        status: of each answer; below 400 the file comes with it.
        failures: so many answers, from the first on, are 503.
        cuts: after how many bytes of its body the 1st, 2nd, ... answer is cut, by a reset; None for not.
    """

    content: bytes
    etag: str | None = None
    last_modified: str = ""
    ranges: bool = True
    framing: str = "length"
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    failures: int = 0
    cuts: list[int | None] = field(default_factory=list)


@dataclass
class HttpFileServer:
    """Serves `files` on 127.0.0.1 while it is entered.

    Attributes:
        files: by path, without the query.
        requests: path with query, Range and status of each request so far.
        on_piece: is called with the path and the count of bytes before each piece of a body.
        certificate: of a TLS server: PEM file with key and certificate.
    """

    files: dict[str, File] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    on_piece: Callable[[str, int], None] = lambda path, sent: None
    certificate: str = ""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": self}))
        self._server.handle_error = lambda *request: None
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    site: HttpFileServer
    protocol_version = "HTTP/1.1"

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
        else:
            self.wfile.write(piece)
        self.wfile.flush()

    def _reset(self) -> None:
        # With no time to linger the system sends RST; what was sent before may still be under way.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *message: object) -> None:
        pass
