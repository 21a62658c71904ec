"""Where a TrainJob stands, in one line for a person, from what the server says about it, its pods and the events.

Only computes. Sources: Trainer's conditions (a running job has none), Kueue's suspension, the kubelet's waiting
reasons and the scheduler's condition on pods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.events import about, newest, said, tidy
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.kueue import QUEUE_LABEL, QueueReason
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import NODE

QUEUED, PAUSED, STARTING, RUNNING, COMPLETE, FAILED = "queued", "paused", "starting", "running", "complete", "failed"

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
_CREATION_TROUBLE = ("TrainJobResourcesCreationFailed", "FailedCreate")
_VOLUME_TROUBLE = ("FailedMount", "FailedAttachVolume")
# Reasons of a condition Failed that is the end. Trainer writes others while a change of the TrainJob that somebody
# made cannot be carried out, and takes them back.
_ENDS = (
    "FailedJobs",
    "DeadlineExceeded",
    "TrainingRuntimeNotSupported",
    "FailJobSetFailurePolicyAction",
    "ReachedMaxRestarts",
)
_NOT_QUEUED = QueueReason()


@dataclass(frozen=True)
class JobState:
    """See read_state.

    Attributes:
        phase: QUEUED, PAUSED, STARTING, RUNNING, COMPLETE or FAILED.
        sentence: for the person who follows; empty when there is nothing to say.
        trouble: why it will hardly start, where there is such a reason; else empty.
    """

    phase: str
    sentence: str
    trouble: str = ""


def read_state(
    job: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]] = (),
    nodes: int = 1,
    queue: QueueReason = _NOT_QUEUED,
) -> JobState:
    """Reads the state of a TrainJob.

    Args:
        job: the TrainJob.
        pods: its pods of the replicated job `node`.
        events: about the job, its children and its pods, the oldest first.
        nodes: how many it was created with; somebody may have edited the number, which JobSet does not follow.
        queue: why Kueue does not admit it.
    """
    conditions = {
        condition["type"]: condition
        for condition in job.get("status", {}).get("conditions") or []
        if condition.get("status") == "True"
    }
    if "Complete" in conditions:
        return JobState(COMPLETE, "Complete")
    pods = current_pods(pods)
    running = sum(_is_running(pod) for pod in pods)
    if failed := conditions.get("Failed"):
        if failed.get("reason") in _ENDS or not running:
            return JobState(FAILED, said(failed))
        return JobState(RUNNING, f"Running, although the TrainJob says {said(failed)}")
    if "Suspended" in conditions and not pods:
        return _suspended(job, conditions["Suspended"], queue)
    if running >= nodes:
        return JobState(RUNNING, f"Running: {running} of {nodes} {'nodes' if nodes > 1 else 'node'}")
    waiting = [found for pod in pods if not _is_running(pod) and (found := _waiting(pod, events))]
    if waiting:
        # Trouble first: it is what decides.
        sentence, trouble = max(waiting, key=lambda found: bool(found[1]))
    elif len(pods) < nodes and (event := _cannot_be_created(job, events)):
        sentence, trouble = "Its pods cannot be created", said(event)
    else:
        sentence, trouble = ("Pending: the pods are being created" if not pods else "Pending: the pods start"), ""
    if running:
        sentence = f"{running} of {nodes} nodes run. {sentence}"
    return JobState(STARTING, f"{sentence}: {trouble}" if trouble else sentence, trouble)


def current_pods(pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest pod of each node: an evicted one stays listed beside its replacement. Those on their way out
    (preempted, on a lost node) train no more."""
    newest_of: dict[str, Mapping[str, Any]] = {}
    for pod in sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", "")):
        if "deletionTimestamp" in pod["metadata"]:
            continue
        node, earlier = node_index(pod), newest_of.get(node_index(pod))
        # Two of one second: the one that has not failed.
        same_time = earlier and earlier["metadata"].get("creationTimestamp") == pod["metadata"].get("creationTimestamp")
        if not (same_time and pod.get("status", {}).get("phase") == "Failed"):
            newest_of[node] = pod
    return list(newest_of.values())


def node_index(pod: Mapping[str, Any]) -> str:
    """The node of a pod: 0 for the one whose log matters."""
    metadata = pod["metadata"]
    return metadata.get("labels", {}).get("batch.kubernetes.io/job-completion-index") or metadata["name"]


def node_container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Status of the container that trains; empty while there is none."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == NODE), {})


def _suspended(job: Mapping[str, Any], condition: Mapping[str, Any], queue: QueueReason) -> JobState:
    local_queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL)
    if not local_queue and not queue.sentence:
        message = condition.get("message") or "spec.suspend is true"
        return JobState(PAUSED, f"Paused: somebody has suspended the TrainJob ({message})")
    where = f"Waiting for quota in the queue {local_queue}" if local_queue else "Waiting for quota"
    sentence = f"{where}: {queue.sentence or condition.get('message') or 'the TrainJob is suspended'}"
    # It counts as starting, which has a deadline.
    return JobState(STARTING if queue.hopeless else QUEUED, sentence)


def _is_running(pod: Mapping[str, Any]) -> bool:
    return "running" in node_container(pod).get("state", {}) or pod.get("status", {}).get("phase") == "Succeeded"


def _cannot_be_created(job: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The event that says so, of the TrainJob or of its children, where nothing has come after it."""
    names = dict.fromkeys(event.get("involvedObject", {}).get("name") for event in events)
    found = [event for name in names if (event := newest(about(events, name or ""), _CREATION_TROUBLE))]
    return found[-1] if found else None


def _waiting(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """What a pod waits for, and why it will hardly start (or an empty text)."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            reason, message = condition.get("reason", ""), tidy(condition.get("message") or "")
            return f"Pending: {name} is not scheduled ({reason}): {message}", ""
    if "terminated" in node_container(pod).get("state", {}) or status.get("phase") == "Failed":
        return f"{name} has ended, and is started again or replaced", ""
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        reason = container.get("state", {}).get("waiting", {})
        if reason.get("reason") in _TROUBLE:
            return f"Pending: {name} cannot start", said(reason)
        if reason.get("reason") == "CrashLoopBackOff":
            return f"{name} failed and is started again ({container.get('restartCount', 0)} restarts so far)", ""
    own = about(events, name)
    if event := newest(own, _VOLUME_TROUBLE):
        return f"Pending: {name} waits for its volumes", said(event)
    if newest(own, ("Pulling",)):
        return f"Pending: {name} pulls its image", ""
    return f"Pending: {name} starts", ""
