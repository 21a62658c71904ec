"""Events about a TrainJob and its pods: order, selection and text. Pure functions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LONGEST_MESSAGE = 500
_LONGEST_VALUE = 120
# The random suffix that a Job gives each pod: <trainjob>-node-0-<index>-xxxxx.
_POD_SUFFIX = re.compile(r"(-node-\d+-\d+)-[a-z0-9]{5}\b")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def event_time(event: Mapping[str, Any]) -> str:
    """When it last occurred, as text that sorts; API server and kubelet use different fields.

    Within a second, times with a fraction sort before those without: the scheduler's before the kubelet's.
    """
    series = event.get("series") or {}
    return max(
        series.get("lastObservedTime") or "",
        event.get("lastTimestamp") or "",
        event.get("eventTime") or "",
        event.get("firstTimestamp") or "",
    )


def in_order(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Oldest first; within a second, in the server's order."""
    return sorted(events, key=event_time)


def since(events: Iterable[Mapping[str, Any]], created: str) -> list[Mapping[str, Any]]:
    """Those since the object with this creationTimestamp exists: earlier objects had the same name."""
    return [event for event in events if event_time(event) >= created.rstrip("Z")]


def about(events: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [event for event in events if event.get("involvedObject", {}).get("name") == name]


def newest(events: Sequence[Mapping[str, Any]], reasons: Sequence[str]) -> Mapping[str, Any] | None:
    """The newest event if it has one of these reasons; a later event with another reason supersedes it."""
    return events[-1] if events and events[-1].get("reason") in reasons else None


def tidy(message: str) -> str:
    """The message on one line, identical at each retry: without random suffixes of pods, and without the training
    script, which the rejection of a pod quotes."""
    message = _QUOTED.sub(lambda quoted: quoted[0] if len(quoted[0]) <= _LONGEST_VALUE else '"..."', message)
    message = _POD_SUFFIX.sub(r"\1", " ".join(message.split()))
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 3]}..."


def reason_and_message(condition: Mapping[str, Any]) -> str:
    """Reason and message of a condition, an event or a container state."""
    reason, message = condition.get("reason", ""), tidy(condition.get("message") or "")
    return f"{reason}: {message}" if reason and message else reason or message or "no reason given"
