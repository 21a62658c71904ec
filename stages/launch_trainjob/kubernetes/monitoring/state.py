"""The state of a TrainJob, in one line for a person, from the TrainJob, its pods and the events.

Pure functions. Sources: Trainer's conditions (a running job has none), Kueue's suspension, the kubelet's waiting
reasons and the scheduler's condition on pods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.events import about, newest, reason_and_message, tidy
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.kueue import QUEUE_LABEL, QueueReason
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import NODE

QUEUED, PAUSED, STARTING, RUNNING, COMPLETE, FAILED = "queued", "paused", "starting", "running", "complete", "failed"

# Waiting reasons of the kubelet that rarely resolve by themselves.
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
# Events about a job whose pods cannot be created, and about a pod whose volumes cannot be mounted.
_CREATION_TROUBLE = ("TrainJobResourcesCreationFailed", "FailedCreate")
_VOLUME_TROUBLE = ("FailedMount", "FailedAttachVolume")
# Reasons of a Failed condition that is final. Trainer sets others while an edit of the TrainJob cannot be applied, and
# withdraws them later.
_FINAL_REASONS = (
    "FailedJobs",
    "DeadlineExceeded",
    "TrainingRuntimeNotSupported",
    "FailJobSetFailurePolicyAction",
    "ReachedMaxRestarts",
)
_NOT_QUEUED = QueueReason()


@dataclass(frozen=True)
class JobState:
    """What read_state returns.

    Attributes:
        phase: QUEUED, PAUSED, STARTING, RUNNING, COMPLETE or FAILED.
        sentence: one line for the log.
        trouble: why it is unlikely to start; empty where nothing suggests that.
    """

    phase: str
    sentence: str
    trouble: str = ""


def read_phase(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]] = (), nodes: int = 1) -> str:
    """The phase of a TrainJob, from its conditions and pods alone; see read_state for the arguments."""
    conditions = _conditions(job)
    pods = current_pods(pods)
    running = sum(_is_running(pod) for pod in pods)
    if "Complete" in conditions:
        return COMPLETE
    if failed := conditions.get("Failed"):
        return FAILED if failed.get("reason") in _FINAL_REASONS or not running else RUNNING
    if "Suspended" in conditions and not pods:
        return QUEUED if _local_queue(job) else PAUSED
    return RUNNING if running >= nodes else STARTING


def read_state(
    job: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]] = (),
    nodes: int = 1,
    queue: QueueReason = _NOT_QUEUED,
) -> JobState:
    """The phase of a TrainJob, with the sentence that explains it.

    Args:
        job: the TrainJob.
        pods: its pods of the replicated job `node`.
        events: about the job, its children and its pods, oldest first; only a job that is starting needs them.
        nodes: how many it was created with; somebody may have edited the number, which JobSet ignores.
        queue: why Kueue does not admit it; only a queued job needs it.
    """
    phase, conditions = read_phase(job, pods, nodes), _conditions(job)
    if phase == COMPLETE:
        return JobState(phase, "Complete")
    if phase == FAILED:
        return JobState(phase, reason_and_message(conditions["Failed"]))
    if phase == PAUSED:
        message = conditions["Suspended"].get("message") or "spec.suspend is true"
        return JobState(phase, f"Paused: somebody has suspended the TrainJob ({message})")
    if phase == QUEUED:
        reason = queue.sentence or conditions["Suspended"].get("message") or "the TrainJob is suspended"
        # A hopeless wait counts as starting, which has a deadline.
        return JobState(
            STARTING if queue.hopeless else phase, f"Waiting for quota in the queue {_local_queue(job)}: {reason}"
        )
    if phase == RUNNING and "Failed" in conditions:
        return JobState(phase, f"Running, although the TrainJob reports {reason_and_message(conditions['Failed'])}")
    pods = current_pods(pods)
    running = sum(_is_running(pod) for pod in pods)
    if phase == RUNNING:
        return JobState(phase, f"Running: {running} of {nodes} {'nodes' if nodes > 1 else 'node'}")
    sentence, trouble = _starting(job, pods, events, nodes)
    if running:
        sentence = f"{running} of {nodes} nodes are running. {sentence}"
    return JobState(phase, f"{sentence}: {trouble}" if trouble else sentence, trouble)


def current_pods(pods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest pod of each node: an evicted one stays listed beside its replacement. Those being deleted
    (preempted, on a lost node) no longer train."""
    newest_of: dict[str, Mapping[str, Any]] = {}
    for pod in sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", "")):
        if "deletionTimestamp" in pod["metadata"]:
            continue
        node, earlier = node_index(pod), newest_of.get(node_index(pod))
        # Created in the same second: the one that has not failed.
        same_time = earlier and earlier["metadata"].get("creationTimestamp") == pod["metadata"].get("creationTimestamp")
        if not (same_time and pod.get("status", {}).get("phase") == "Failed"):
            newest_of[node] = pod
    return list(newest_of.values())


def node_index(pod: Mapping[str, Any]) -> str:
    """The node of a pod: 0 for the one whose log matters."""
    metadata = pod["metadata"]
    return metadata.get("labels", {}).get("batch.kubernetes.io/job-completion-index") or metadata["name"]


def node_container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Status of the container that trains; {} while it has none."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == NODE), {})


def _conditions(job: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions that hold, by type."""
    conditions = job.get("status", {}).get("conditions") or []
    return {condition["type"]: condition for condition in conditions if condition.get("status") == "True"}


def _local_queue(job: Mapping[str, Any]) -> str:
    return job["metadata"].get("labels", {}).get(QUEUE_LABEL, "")


def _starting(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], nodes: int
) -> tuple[str, str]:
    """What a job that does not run yet waits for, and why it is unlikely to start (or an empty text)."""
    waiting = [_waiting(pod, events) for pod in pods if not _is_running(pod)]
    if waiting:
        # Trouble first: it is what decides.
        return max(waiting, key=lambda found: bool(found[1]))
    if len(pods) < nodes and (event := _cannot_be_created(job, events)):
        return "Its pods cannot be created", reason_and_message(event)
    return ("Pending: the pods are starting" if pods else "Pending: the pods are being created"), ""


def _is_running(pod: Mapping[str, Any]) -> bool:
    return "running" in node_container(pod).get("state", {}) or pod.get("status", {}).get("phase") == "Succeeded"


def _cannot_be_created(job: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The event that says so, about the TrainJob or its children, unless a newer event followed it."""
    names = dict.fromkeys(event.get("involvedObject", {}).get("name") for event in events)
    found = [event for name in names if (event := newest(about(events, name or ""), _CREATION_TROUBLE))]
    return found[-1] if found else None


def _waiting(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What a pod waits for, and why it is unlikely to start (or an empty text)."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            reason, message = condition.get("reason", ""), tidy(condition.get("message") or "")
            return f"Pending: {name} is not scheduled ({reason}): {message}", ""
    if "terminated" in node_container(pod).get("state", {}) or status.get("phase") == "Failed":
        return f"{name} has ended and will be restarted or replaced", ""
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        reason = container.get("state", {}).get("waiting", {})
        if reason.get("reason") in _TROUBLE:
            return f"Pending: {name} cannot start", reason_and_message(reason)
        if reason.get("reason") == "CrashLoopBackOff":
            return f"{name} failed and is being restarted ({container.get('restartCount', 0)} restarts so far)", ""
    own = about(events, name)
    if event := newest(own, _VOLUME_TROUBLE):
        return f"Pending: {name} is waiting for its volumes", reason_and_message(event)
    if newest(own, ("Pulling",)):
        return f"Pending: {name} is pulling its image", ""
    return f"Pending: {name} is starting", ""
