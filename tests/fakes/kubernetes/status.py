"""Error responses of a Kubernetes API server: Status objects with the wording of the real one."""

from typing import Any

#: Default reason of a Status by its code.
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "Timeout",
    409: "Conflict",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ApiError(Exception):
    """A response with a Status whose status is Failure; `details` as in metav1.StatusDetails."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or _REASONS[code]
        self.details = details or {}
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        return status | ({"details": self.details} if self.details else {})


class PageNotFound(Exception):
    """A path that nothing serves: a 404 in plain text, as a server without the resource's CRD does."""


def not_found(qualified: str, name: str) -> ApiError:
    """qualified: the plural with its group, as in trainjobs.trainer.kubeflow.org."""
    return ApiError(404, f'{qualified} "{name}" not found', details=_details(qualified, name))


def already_exists(qualified: str, name: str, *, being_deleted: bool) -> ApiError:
    prefix = "object is being deleted: " if being_deleted else ""
    return ApiError(
        409, f'{prefix}{qualified} "{name}" already exists', reason="AlreadyExists", details=_details(qualified, name)
    )


def invalid(kind: str, group: str, name: str, causes: list[dict[str, str]]) -> ApiError:
    """causes: reason, message and field of each violation."""
    sentences = [f"{cause['field']}: {cause['message']}" for cause in causes]
    listed = sentences[0] if len(sentences) == 1 else "[" + ", ".join(sentences) + "]"
    qualified = f"{kind}.{group}" if group else kind
    return ApiError(
        422,
        f'{qualified} "{name}" is invalid: {listed}',
        details={"name": name, "group": group, "kind": kind, "causes": causes},
    )


def denied_by_webhook(webhook: str, sentence: str) -> ApiError:
    """A denial by a validating webhook built with controller-runtime: 403, like a missing right."""
    return ApiError(403, f'admission webhook "{webhook}" denied the request: {sentence}')


def too_busy(code: int, retry_after: int | None, message: str = "") -> ApiError:
    """An injected 408, 409, 429, 500, 503 or 504, with its usual message or the given one."""
    message = (
        message
        or {
            408: "the server did not answer in time",
            409: "Operation cannot be fulfilled: the object has been modified",
            429: "Too many requests, please try again later.",
            500: "etcdserver: leader changed",
            503: "the server is currently unable to handle the request",
            504: "Timeout: request did not complete within requested timeout",
        }[code]
    )
    if retry_after is None:
        return ApiError(code, message)
    return ApiError(
        code, message, details={"retryAfterSeconds": retry_after}, headers={"Retry-After": str(retry_after)}
    )


def _details(qualified: str, name: str) -> dict[str, str]:
    plural, _, group = qualified.partition(".")
    return {"name": name, "group": group, "kind": plural}
