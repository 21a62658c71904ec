"""HTTPS on 127.0.0.1: connections, bytes, resets. The responses come from api."""

import contextlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

import trustme

from fakes.kubernetes import api
from fakes.kubernetes.pod_log import LogCut
from fakes.kubernetes.recorded import Request
from fakes.kubernetes.status import ApiError, PageNotFound, too_busy

if TYPE_CHECKING:
    from fakes.kubernetes.cluster import Cluster


@lru_cache
def certificate_authority() -> trustme.CA:
    """Shared by all clusters of this process."""
    return trustme.CA()


@lru_cache
def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate_authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


class HttpServer(ThreadingHTTPServer):
    """Serves a Cluster while the context is entered."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, cluster: "Cluster", port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.cluster = cluster
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            # Here and not while accepting: a slow handshake must not block other connections.
            request.settimeout(10)
            secure = _tls().wrap_socket(request, server_side=True)
            secure.settimeout(None)
        except OSError:
            self.shutdown_request(request)
            return
        with self._lock:
            self._connections.add(secure)
        try:
            super().process_request_thread(secure, client_address)
        finally:
            with self._lock:
                self._connections.discard(secure)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnects midway is not an error; anything else fails the test."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.cluster.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        pass

    def _handle(self) -> None:
        cluster = self.server.cluster
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, parts.path, query)
        target = api.describe(request)
        cluster.record(request)
        fault = None
        try:
            if self.headers.get("Authorization") != f"Bearer {cluster.token}":
                request.token_known = False
                raise ApiError(401, "Unauthorized")
            request.body = _decoded(sent)
            fault = cluster.faults.next_for(request)
            if fault is not None and fault.seconds:
                cluster.pause(fault.seconds)
            if fault is not None and fault.status is not None and not fault.carried_out:
                self._fail(request, fault)
                return
            answer = api.answer(cluster, request, target)
            if fault is not None and fault.status is not None:
                self._fail(request, fault)
                return
        except ApiError as error:
            self._send(request, error.code, "application/json", json.dumps(error.body()), error.headers)
            return
        except PageNotFound:
            self._send(request, 404, "text/plain; charset=utf-8", "404 page not found\n")
            return
        if answer.chunks is None:
            self._send(request, answer.status, "application/json", json.dumps(answer.body), answer.headers)
        else:
            self._stream(request, answer.chunks)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _fail(self, request: Request, fault: Any) -> None:
        if fault.page:
            self._send(request, fault.status, "text/html", "<html><body>No route to the backend</body></html>")
            return
        if fault.status:
            raise too_busy(fault.status, fault.retry_after, fault.message)
        self._answered(request, 0)
        self._reset()

    def _send(self, request: Request, status: int, kind: str, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        # Before the client receives it: its next step must find this request recorded.
        self._answered(request, status)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, request: Request, chunks: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self._answered(request, 200)
        self.end_headers()
        try:
            for chunk in chunks:
                if chunk:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                if self.server.cluster.store.closed or (not chunk and self._client_is_gone()):
                    self.close_connection = True
                    return
            self.wfile.write(b"0\r\n\r\n")
        except LogCut:
            self._reset()
        finally:
            # Ends the log's reader now, not when the generator is garbage-collected.
            close = getattr(chunks, "close", None)
            if close:
                close()

    def _answered(self, request: Request, status: int) -> None:
        if request.status is None:
            with self.server.cluster.store.changed:
                request.status = status
                self.server.cluster.store.changed.notify_all()

    def _client_is_gone(self) -> bool:
        """A client that waits for a log sends nothing, so readable data means that it has disconnected."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def _reset(self) -> None:
        """Closes with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def _decoded(sent: bytes) -> Any:
    if not sent:
        return None
    try:
        return json.loads(sent)
    except ValueError:
        raise ApiError(
            400,
            "the body of the request was in an unknown format - accepted media types include: "
            "application/json, application/yaml",
        ) from None
