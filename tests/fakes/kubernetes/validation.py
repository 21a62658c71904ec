"""The API server's validation of metadata, Secrets and options, as far as a launcher can violate it."""

import re
from collections.abc import Iterator
from typing import Any

from fakes.kubernetes.resources import Resource
from fakes.kubernetes.status import ApiError, invalid

_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_QUALIFIED_NAME = re.compile(
    r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_LARGEST_ANNOTATIONS = 256 * 1024

_LABEL_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def check_metadata(resource: Resource, body: dict[str, Any]) -> None:
    """Name, labels, annotations and owners of a new object. Raises ApiError 422."""
    causes = list(_metadata(body["metadata"]))
    if causes:
        raise invalid(resource.kind, resource.group, body["metadata"].get("name", ""), causes)


def check_secret(body: dict[str, Any]) -> None:
    """Raises ApiError 422 for an invalid key."""
    causes = [
        _cause(f"data[{key}]", f'Invalid value: "{key}": a valid config key must consist of alphanumeric characters')
        for key in body.get("data", {})
        if not _SECRET_KEY.fullmatch(key)
    ]
    if causes:
        raise invalid("Secret", "", body["metadata"].get("name", ""), causes)


def check_propagation(policy: str) -> None:
    """Raises ApiError 422."""
    if policy not in ("Background", "Foreground", "Orphan"):
        message = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
        raise invalid(
            "DeleteOptions", "meta.k8s.io", "", [_cause("propagationPolicy", message, "FieldValueNotSupported")]
        )


def check_label_selector(key: str, value: str | None) -> None:
    """Raises ApiError 400, as for a list's labelSelector."""
    if not _QUALIFIED_NAME.fullmatch(key):
        raise ApiError(
            400, f'unable to parse requirement: <nil>: Invalid value: "{key}": name part must consist of ...'
        )
    if value is not None and not _LABEL_VALUE.fullmatch(value):
        raise ApiError(400, f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": {_LABEL_RULE}')


def _metadata(metadata: dict[str, Any]) -> Iterator[dict[str, str]]:
    name = metadata.get("name")
    if name and not _NAME.fullmatch(name):
        yield _cause("metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of ...')
    for key, value in metadata.get("labels", {}).items():
        if not _QUALIFIED_NAME.fullmatch(key):
            yield _cause("metadata.labels", f'Invalid value: "{key}": name part must consist of ...')
        if not _LABEL_VALUE.fullmatch(value):
            yield _cause("metadata.labels", f'Invalid value: "{value}": {_LABEL_RULE}')
    annotations = metadata.get("annotations", {})
    for key in annotations:
        if not _QUALIFIED_NAME.fullmatch(key):
            yield _cause("metadata.annotations", f'Invalid value: "{key}": name part must consist of ...')
    if sum(len(key) + len(value) for key, value in annotations.items()) > _LARGEST_ANNOTATIONS:
        yield _cause("metadata.annotations", "Too long: may not be more than 262144 bytes", "FieldValueTooLong")
    for number, owner in enumerate(metadata.get("ownerReferences", ())):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield _cause(f"metadata.ownerReferences[{number}].{field}", 'Invalid value: "": must not be empty')


def _cause(field: str, message: str, reason: str = "FieldValueInvalid") -> dict[str, str]:
    return {"reason": reason, "field": field, "message": message}
