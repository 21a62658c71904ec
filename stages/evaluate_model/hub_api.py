"""The REST API of an Eval Hub: its address, TLS, the token, and what can go wrong, in sentences."""

import ipaddress
import json
import os
import socket
import ssl
import time
from contextlib import suppress
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from kfp_osft.shared.network.errors import is_lasting, network_cause
from kfp_osft.shared.network.retry import Backoff
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import keep_secret, redacted, shown

#: Environment variables: the bearer token, and the tenant (X-Tenant). In a pod the defaults are its service account's
#: token, for a hub of the same cluster, and its namespace.
TOKEN, TENANT = "EVAL_HUB_TOKEN", "EVAL_HUB_TENANT"
# Where Kubernetes mounts them, and OpenShift the authority of its services' certificates.
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVICE_CA = "service-ca.crt"
_SECONDS, _SECONDS_TO_READ = 30, 120
_LONGEST_ANSWER = 64 << 20
_LONGEST_MESSAGE = 600
# About two minutes: a hub's pod is replaced meanwhile.
_TRIES, _FIRST_PAUSE = 7, 1.0


class _Passing(Exception):
    """What another try may help against."""


class EvalHub:
    """An Eval Hub by URL.

    https is verified with the authorities of this system, those of the certificate variables, and in a pod of OpenShift
    the one of its services; nothing switches that off. Without TLS no token is sent, and the service account's only to
    a service of the cluster (host ending in .svc or .svc.cluster.local).

    Attributes:
        url: without a slash at the end.
    """

    def __init__(self, url: str) -> None:
        """Does not connect.

        Raises:
            InputError: url is not allowed, see check_hub_url.
        """
        check_hub_url(url)
        self.url = url.strip().rstrip("/")
        self.said = f"eval_hub_url={self.url}"
        self._has_tls = self.url.lower().startswith("https:")
        host = urlsplit(self.url).hostname or ""
        # The cluster's own token opens more than a hub: it goes to nobody outside.
        self._is_near = _is_this_computer(host) or host.endswith((".svc", ".svc.cluster.local"))
        if not self._has_tls and not _is_this_computer(host):
            log(f"Warning: {self.said} has no TLS: anybody on the way can read and change what the Eval Hub answers")

    def get(self, path: str, tries: int = _TRIES) -> dict[str, Any]:
        """The JSON object at a path below /api/v1, asked for again while the hub is away.

        Raises:
            InputError: it cannot be had; names the hub and the cause.
        """
        backoff = Backoff(tries, _FIRST_PAUSE)
        while True:
            try:
                return self._ask("GET", path)
            except _Passing as passing:
                pause = backoff.pause()
                if pause is None:
                    raise InputError(f"{self.said}: {passing}") from None
            time.sleep(pause)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the hub answers to an object. Only one try: it might do it twice.

        Raises:
            InputError: see get.
        """
        try:
            return self._ask("POST", path, body)
        except _Passing as passing:
            raise InputError(f"{self.said}: {passing}") from None

    def delete(self, path: str) -> None:
        """Deletes what is at a path, if the hub can still be reached; raises nothing."""
        with suppress(InputError, _Passing):
            self._ask("DELETE", path)

    def address_here(self) -> str:
        """The address of this computer on the way to the hub."""
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or (443 if self._has_tls else 80)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            # A datagram socket only looks up the route.
            with socket.socket(family, kind, protocol) as route:
                route.connect(address)
                return str(route.getsockname()[0])
        except OSError as error:
            raise InputError(f"{self.said}: {network_cause(error)}") from None

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/api/v1{path}", content, self._headers(), method=method)
        try:
            with self._opener().open(request, timeout=_SECONDS) as response:
                answer = _read(response)
        except HTTPError as error:
            with error:
                raise self._refusal(error.code, _message(error), path) from None
        # http.client's own errors are no OSErrors.
        except Exception as error:
            if is_lasting(error):
                raise InputError(f"{self.said}: {network_cause(error)}") from None
            raise _Passing(network_cause(error)) from None
        if method == "DELETE":
            return {}
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InputError(f"{self.said}: its answer at {path.partition('?')[0]} is not that of an Eval Hub")
        return found

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "kfp-osft"}
        # Read anew: Kubernetes replaces the file of a token.
        if self._has_tls and (token := _given(TOKEN) or (self._is_near and _of_account("token"))):
            keep_secret(token)
            headers["Authorization"] = f"Bearer {token}"
        if tenant := _given(TENANT) or _of_account("namespace"):
            headers["X-Tenant"] = tenant
        return headers

    def _opener(self) -> OpenerDirector:
        context = ssl.create_default_context()
        if (_ACCOUNT / _SERVICE_CA).is_file():
            context.load_verify_locations(_ACCOUNT / _SERVICE_CA)
        return build_opener(HTTPSHandler(context=context), _NoRedirect())

    def _refusal(self, status: int, message: str, path: str) -> Exception:
        words = f"HTTP {status}{f', {message}' if message else ''}"
        if status == 429 or status >= 500:
            return _Passing(words)
        if status in (401, 403):
            who = "with the token it was given" if self._has_tls else "which gets no token without TLS"
            return InputError(
                f"{self.said}: does not let this stage in, {who} ({words}); allowed: a token that it accepts in "
                f"{TOKEN}, or a service account with the rights it asks for, and the tenant in {TENANT}"
            )
        if 300 <= status < 400:
            return InputError(f"{self.said}: redirects to another address; give that one")
        if status == 404 and not message:
            return InputError(f"{self.said}: no Eval Hub answers there; nothing is at /api/v1{path.partition('?')[0]}")
        return InputError(f"{self.said}: {words}")


def check_hub_url(url: str) -> None:
    """Raises InputError unless this is http(s)://host, perhaps with a port and a path; or if there is a token to send
    and no TLS."""
    said = f"eval_hub_url={redacted(url)}"
    scheme = ""
    try:
        parts = urlsplit(url.strip())
        scheme = parts.scheme
        is_allowed = scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_allowed = False
    if not is_allowed or "@" in url or "?" in url or "#" in url or any(map(str.isspace, url.strip())):
        raise InputError(
            f"{said} is not allowed; allowed: https://host or https://host:port, without user, query and fragment; a "
            f"token goes into {TOKEN}"
        )
    if scheme == "http" and os.environ.get(TOKEN, "").strip():
        raise InputError(f"{said} would show the token of {TOKEN} to anybody on the way; allowed with it: https://")


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would take the token elsewhere."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Message, newurl: str) -> None:
        return None


def _read(response: Any) -> bytes:
    deadline = time.monotonic() + _SECONDS_TO_READ
    content = b""
    while piece := response.read1(1 << 16):
        content += piece
        if len(content) > _LONGEST_ANSWER or time.monotonic() > deadline:
            raise TimeoutError
    return content


def _message(error: HTTPError) -> str:
    """The hub's own sentence in an error's body; empty if there is none."""
    try:
        message = json.loads(error.read(_LONGEST_ANSWER)).get("message")
    # No JSON, no object, or cut off.
    except Exception:
        return ""
    return short(message) if isinstance(message, str) else ""


def short(message: str) -> str:
    """Another's message in one line, not too long, and without secrets."""
    text = " ".join(shown(message).split())
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} ..."


def _given(variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not all("!" <= letter <= "~" for letter in value):
        raise InputError(f"{variable} in the environment is not allowed; allowed: one line of ASCII without blanks")
    return value


def _of_account(name: str) -> str:
    try:
        return (_ACCOUNT / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _is_this_computer(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
