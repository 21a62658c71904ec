"""Why Kueue does not admit a TrainJob, from its Workload or the Workload's events."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.events import in_order, tidy

#: Label on a TrainJob: its LocalQueue.
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

# "... insufficient quota for nvidia.com/gpu in flavor gpus, previously considered podsets requests (0) + current podset
# request (3) > maximum capacity (2)": pkg/scheduler/flavorassigner of Kueue 0.16.
_TOO_LARGE = re.compile(r"insufficient quota for (\S+) in flavor (\S+?),.*?\((\S+)\) > maximum capacity \((\S+)\)")
_MISSING = "doesn't exist"
# About another flavor, whose quota may become free.
_MAY_BE_FREED = "insufficient unused quota"


class QueueReason(NamedTuple):
    """Why a TrainJob waits in its queue.

    Attributes:
        sentence: Kueue's message, or a shorter form; empty if it gives none.
        hopeless: waiting will not help: the queue is missing, or smaller than what the TrainJob needs.
    """

    sentence: str = ""
    hopeless: bool = False


def queue_reason(
    workloads: Sequence[Mapping[str, Any]] | None, events: Sequence[Mapping[str, Any]], trainjob: Mapping[str, Any]
) -> QueueReason:
    """Reads the reason from the TrainJob's Workload or, if the token may not list it, from the events of Workloads.

    Args:
        workloads: of the namespace, None if the token may not list them.
        events: about Workloads of the namespace.
        trainjob: the one that waits.
    """
    metadata = trainjob["metadata"]
    for workload in workloads or ():
        owners = workload["metadata"].get("ownerReferences", [])
        if any(owner.get("uid") == metadata["uid"] for owner in owners):
            return _reason_of(workload)
    # Kueue names it after the TrainJob, with a hash.
    prefix = f"trainjob-{metadata['name']}-"
    own = [event for event in in_order(events) if event.get("involvedObject", {}).get("name", "").startswith(prefix)]
    return _parse(own[-1].get("message") or "") if own else QueueReason()


def _reason_of(workload: Mapping[str, Any]) -> QueueReason:
    if workload.get("spec", {}).get("active") is False:
        return QueueReason("its Workload is deactivated (spec.active is false)", hopeless=False)
    conditions = {one["type"]: one for one in workload.get("status", {}).get("conditions") or []}
    for kind in ("QuotaReserved", "Admitted"):
        condition = conditions.get(kind, {})
        if condition.get("status") == "False" and condition.get("message"):
            return _parse(condition["message"])
    return QueueReason()


def _parse(message: str) -> QueueReason:
    found = _TOO_LARGE.search(message)
    if found and _MAY_BE_FREED not in message:
        resource, flavor, needed, most = found.groups()
        return QueueReason(f"it needs {needed} {resource}, but the queue has at most {most} (flavor {flavor})", True)
    return QueueReason(tidy(message), _MISSING in message)
