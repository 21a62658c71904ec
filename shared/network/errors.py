"""What went wrong on the way to a server, without the URL: HTTP clients put all of it into their messages."""

import socket
import ssl
from collections.abc import Iterator

from kfp_osft.shared.network.certificates import REMEDY


def network_cause(error: BaseException) -> str:
    """The cause in an HTTP client's exception: name resolution, TLS, time, or the operating system's words."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return "its host name cannot be resolved"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS failed: its certificate is not trusted ({cause.verify_message}); {REMEDY}"
        if _is_plain_http(cause):
            return "TLS failed: it answers in plain HTTP; write http:// before its host"
        if isinstance(cause, ssl.SSLError):
            reason = (cause.reason or "").replace("_", " ").lower()
            return f"TLS failed: {reason or 'no secure connection'}"
    for cause in causes:
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return "no answer in time"
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return cause.strerror
        if type(cause).__name__ in ("IncompleteRead", "RemoteDisconnected", "ConnectionClosedError"):
            return "the connection was closed early"
    return type(causes[-1]).__name__


def is_lasting(error: BaseException) -> bool:
    """Whether another try is pointless: unknown host name, untrusted certificate, or a port that does not speak TLS."""
    return any(
        isinstance(cause, (socket.gaierror, ssl.SSLCertVerificationError)) or _is_plain_http(cause)
        for cause in _causes(error)
    )


def _is_plain_http(cause: BaseException) -> bool:
    # What OpenSSL makes of an answer that is not TLS.
    return isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those inside it, from outside in: each HTTP client nests in a way of its own."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or any(cause is other for other in seen):
            continue
        seen.append(cause)
        yield cause
        kwargs = getattr(cause, "kwargs", None)
        waiting += [
            cause.__cause__,
            cause.__context__,
            getattr(cause, "reason", None),
            getattr(cause, "last_exception", None),
            *cause.args,
            *(kwargs.values() if isinstance(kwargs, dict) else ()),
        ]
