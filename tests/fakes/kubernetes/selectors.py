"""Label and field selectors of list requests."""

import re
from collections.abc import Callable
from typing import Any

from fakes.kubernetes.resources import EVENTS, PODS, Resource
from fakes.kubernetes.status import ApiError
from fakes.kubernetes.validation import check_label_selector

_SET = re.compile(r"(?P<key>\S+) (?P<operator>in|notin) \((?P<values>[^)]*)\)")

#: Field selectors besides metadata.name and metadata.namespace, which every resource has.
_FIELDS = {
    PODS: (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    EVENTS: (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}


def selected_by(resource: Resource, query: dict[str, str]) -> Callable[[dict[str, Any]], bool]:
    """The objects that match a list's labelSelector and fieldSelector. Raises ApiError 400."""
    labels = [_label_test(part) for part in _parts(query.get("labelSelector", ""))]
    fields = [_field_test(resource, part) for part in _parts(query.get("fieldSelector", ""))]
    return lambda body: (
        all(test(body["metadata"].get("labels", {})) for test in labels) and all(test(body) for test in fields)
    )


def _parts(selector: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _label_test(part: str) -> Callable[[dict[str, str]], bool]:
    if match := _SET.fullmatch(part):
        key, values = match["key"], [value.strip() for value in match["values"].split(",")]
        wanted = match["operator"] == "in"
        for value in values:
            check_label_selector(key, value)
        return lambda labels: (labels.get(key) in values) == wanted
    if "=" in part:
        key, wanted, value = _equation(part)
        check_label_selector(key, value)
        return lambda labels: (labels.get(key) == value) == wanted
    check_label_selector(part.removeprefix("!"), None)
    if part.startswith("!"):
        return lambda labels: part[1:] not in labels
    return lambda labels: part in labels


def _field_test(resource: Resource, part: str) -> Callable[[dict[str, Any]], bool]:
    if "=" not in part:
        raise ApiError(400, f"invalid selector: '{part}'; can't understand '{part}'")
    path, wanted, value = _equation(part)
    if path not in ("metadata.name", "metadata.namespace", *_FIELDS.get(resource, ())):
        raise ApiError(400, f"field label not supported: {path}")

    def test(body: dict[str, Any]) -> bool:
        held: Any = body
        for step in path.split("."):
            held = held.get(step, "") if isinstance(held, dict) else ""
        if path == "source":
            held = body.get("source", {}).get("component", "")
        return (held == value) == wanted

    return test


def _equation(part: str) -> tuple[str, bool, str]:
    """Left side, whether they must be equal, right side."""
    left, right = re.split(r"!=|==|=", part, maxsplit=1)
    return left.strip(), "!=" not in part, right.strip()
