"""Failed requests to the API server, as one family of exceptions whose texts are sentences for a person."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kfp_osft.shared.network.errors import is_lasting, network_cause
from kfp_osft.shared.reporting.errors import InputError

_UNAVAILABLE_STATUS = (408, 429, 500, 502, 503, 504)
# Phrases of an admission that rejects, as opposed to one that cannot be reached.
_ADMISSION = ("denied the request", "exceeded quota", "violates PodSecurity", "is forbidden: ")


class ClusterError(InputError):
    """A request to the API server that failed; its text is a sentence for a person."""


class Unavailable(ClusterError):
    """Usually temporary: the server cannot be reached, is busy or starting, or one of its webhooks is down.

    Attributes:
        retry_after: seconds that the server asks to wait; 0 if it does not say.
        not_served: the 404 was for the path, not for the object.
    """

    def __init__(self, message: str, retry_after: float = 0, not_served: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.not_served = not_served


class Untrusted(ClusterError):
    """No secure connection: the server's certificate is not trusted here, or it does not speak TLS."""


class Forbidden(ClusterError):
    """The token is not accepted, or lacks a right; the text names the verb and the resource."""


class NotFound(ClusterError):
    """The server itself says that the object does not exist; not a proxy's page, nor an API that is not served yet."""


class Refused(ClusterError):
    """The API server rejects the object: it is invalid, exists already, or admission denies it.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turns the client's exceptions into ours, without the headers and bodies that its messages contain."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise _meaning(error, url) from None
    except (HTTPError, OSError) as error:
        cause = network_cause(error)
        # A host name that cannot be resolved now may resolve in a minute: a cluster's DNS has outages, too.
        kind = Untrusted if is_lasting(error) and cause.startswith("TLS") else Unavailable
        raise kind(f"the cluster's API server {url} does not answer: {cause}") from None


def _meaning(error: Any, url: str) -> ClusterError:
    status = _status_object(error.body)
    code, sentence = error.status, status.get("message") or error.reason or "no reason given"
    if code == 401:
        return Forbidden(
            f"the cluster {url} does not accept the token (401): it is wrong or has expired; with "
            "KUBERNETES_SERVER_URL, KUBERNETES_AUTH_TOKEN needs a new one"
        )
    if code == 403 and "is forbidden: User" in sentence:
        return Forbidden(f"the cluster does not allow it: {sentence}; `kfp-osft manifest` prints the Role to apply")
    if code == 404 and status.get("reason") == "NotFound" and status.get("details", {}).get("name"):
        return NotFound(sentence)
    unavailable = (
        code in _UNAVAILABLE_STATUS
        or "failed calling webhook" in sentence
        or (code == 409 and status.get("reason") == "Conflict")
        # Without a Status it is a proxy's answer; a starting server's answers look similar.
        or (code in (403, 404) and not status)
        or (code == 403 and not any(sign in sentence for sign in _ADMISSION))
        or (code == 404 and status.get("reason") == "NotFound")
    )
    if unavailable:
        return Unavailable(
            f"the cluster's API server {url} answers {code}: {sentence}", _retry_after(error), not_served=code == 404
        )
    return Refused(f"the cluster rejected the request ({code}): {sentence}", code)


def _status_object(body: Any) -> dict[str, Any]:
    """The Status object in a response; {} for any other body, such as a proxy's page."""
    try:
        status = json.loads(body)
    except (TypeError, ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) and status.get("kind") == "Status" else {}


def _retry_after(error: Any) -> float:
    try:
        return max(0.0, float((error.headers or {}).get("Retry-After", 0)))
    except ValueError:  # a date
        return 0
