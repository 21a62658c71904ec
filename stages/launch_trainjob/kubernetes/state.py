"""Where a TrainJob stands, in one line for a person, from what the server says about it, its pods and the events.

Only computes. Sources: Trainer's conditions (a running job has none), Kueue's suspension, the kubelet's waiting
reasons and the scheduler's condition on pods.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import NODE

QUEUED, STARTING, RUNNING, COMPLETE, FAILED = "queued", "starting", "running", "complete", "failed"

# What the kubelet says of a container that does not start, and what does not mend by itself as a rule.
_TROUBLE = (
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
# Events about a job whose pods, or a pod whose volumes, cannot be made.
_CREATION_TROUBLE = ("TrainJobResourcesCreationFailed", "FailedCreate", "FailedMount", "FailedAttachVolume")


@dataclass(frozen=True)
class JobState:
    """See read_state.

    Attributes:
        phase: QUEUED, STARTING, RUNNING, COMPLETE or FAILED.
        sentence: for the person who follows; empty when there is nothing to say.
        trouble: why it will hardly start, where there is such a reason; else empty.
    """

    phase: str
    sentence: str
    trouble: str = ""


def read_state(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]
) -> JobState:
    """Reads the state of a TrainJob.

    Args:
        job: the TrainJob.
        pods: its pods of the replicated job `node`.
        events: about the job, its children and its pods, the oldest first.
    """
    conditions = {
        condition["type"]: condition
        for condition in job.get("status", {}).get("conditions") or []
        if condition.get("status") == "True"
    }
    if "Complete" in conditions:
        return JobState(COMPLETE, "Complete")
    if "Failed" in conditions:
        return JobState(FAILED, _said(conditions["Failed"]))
    # Those that are on their way out (preempted, on a lost node) train no more.
    pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if "Suspended" in conditions and not pods:
        message = conditions["Suspended"].get("message", "")
        return JobState(QUEUED, f"Waiting for quota: the TrainJob is suspended{f' ({message})' if message else ''}")

    nodes = job["spec"].get("trainer", {}).get("numNodes") or 1
    running = sum(_is_running(pod) for pod in pods)
    if running >= nodes:
        return JobState(RUNNING, f"Running: {running} of {nodes} {'nodes' if nodes > 1 else 'node'}")
    latest = list(events)[::-1]
    waiting = [found for pod in pods if not _is_running(pod) and (found := _waiting(pod, latest))]
    if waiting:
        # Trouble first: it is what decides.
        sentence, trouble = max(waiting, key=lambda found: bool(found[1]))
    elif len(pods) < nodes and (event := _last(latest, _CREATION_TROUBLE[:2])):
        sentence, trouble = "Its pods cannot be created", _said(event)
    else:
        sentence, trouble = ("Pending: the pods are being created" if not pods else "Pending: the pods start"), ""
    if running:
        sentence = f"{running} of {nodes} nodes run. {sentence}"
    return JobState(STARTING, f"{sentence}: {trouble}" if trouble else sentence, trouble)


def node_container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Status of the container that trains; empty while there is none."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == NODE), {})


def _is_running(pod: Mapping[str, Any]) -> bool:
    return "running" in node_container(pod).get("state", {}) or pod.get("status", {}).get("phase") == "Succeeded"


def _waiting(pod: Mapping[str, Any], latest_events: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """What a pod waits for, and why it will hardly start (or an empty text)."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return (
                f"Pending: {name} is not scheduled ({condition.get('reason', '')}): {condition.get('message', '')}",
                "",
            )
    if "terminated" in node_container(pod).get("state", {}):
        return f"{name} has ended, and is started again or replaced", ""
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    about_pod = [event for event in latest_events if event.get("involvedObject", {}).get("name") == name]
    for container in containers:
        reason = container.get("state", {}).get("waiting", {})
        if reason.get("reason") in _TROUBLE:
            return f"Pending: {name} cannot start", _said(reason)
        if reason.get("reason") == "CrashLoopBackOff":
            return f"{name} failed and is started again ({container.get('restartCount', 0)} restarts so far)", ""
    if event := _last(about_pod, _CREATION_TROUBLE[2:]):
        return f"Pending: {name} waits for its volumes", _said(event)
    last = about_pod[0].get("reason") if about_pod else ""
    if last == "Pulling":
        return f"Pending: {name} pulls its image", ""
    return f"Pending: {name} starts", ""


def _last(latest_events: Iterable[Mapping[str, Any]], reasons: tuple[str, ...]) -> Mapping[str, Any] | None:
    return next((event for event in latest_events if event.get("reason") in reasons), None)


def _said(condition: Mapping[str, Any]) -> str:
    reason, message = condition.get("reason", ""), condition.get("message", "")
    return f"{reason}: {message}" if reason and message else reason or message or "no reason given"
