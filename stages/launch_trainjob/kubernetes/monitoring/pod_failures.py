"""Why the pods of a TrainJob failed: collected while it runs, because a pod out of retries is deleted."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.events import tidy
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.state import node_container, node_index
from kfp_osft.stages.launch_trainjob.train_end import UNMENDABLE

#: Reason for a pod that was deleted before its termination was observed.
GONE = "gone"
_OUT_OF_GPU_MEMORY = ("CUDA out of memory", "OutOfMemoryError", "HIP out of memory")
# The messages of NCCL and PyTorch, and the kernel's signal for a full tmpfs (SIGBUS).
_OUT_OF_SHARED_MEMORY = ("/dev/shm", "shared memory segment", "unable to write to file </torch_", "Bus error")
_SIGKILL_EXIT_CODE = 137
_LINES_SHOWN = 20
# Reasons that say no more than the exit code; others (OOMKilled, Evicted) do.
_PLAIN = ("Error", "ContainerStatusUnknown", GONE)
# Differs between two occurrences of the same error: addresses, counts, times.
_VARYING = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True)
class PodFailure:
    """One termination of one pod's container.

    Attributes:
        pod, node: names.
        index: of the node in the training, as text.
        reason: OOMKilled, Error, Evicted, GONE, ...
        exit_code: of the container; None if it has none.
        message: the kubelet's, or how far the training had come.
        last_lines: the end of the container's log.
        finished: when, as the kubelet writes it; empty if unknown.
        deleted: the pod was being deleted, or is gone: it did not end by itself.
    """

    pod: str
    node: str
    index: str
    reason: str
    exit_code: int | None
    message: str
    last_lines: tuple[str, ...]
    finished: str = ""
    deleted: bool = False

    @property
    def is_final(self) -> bool:
        """Whether the exit code of the training script says that a retry would fail in the same way. One that ended
        because nobody followed it continues in its next attempt."""
        return self.exit_code == UNMENDABLE and self.reason in _PLAIN

    def sentence(self) -> str:
        where = f"pod {self.pod}{f' on {self.node}' if self.node else ''}"
        if self.reason == GONE and self.message:
            return f"{where} is gone: {self.message}"
        if self.reason == GONE:
            return (
                f"{where} is gone: it was deleted before its termination was observed (evicted, preempted, or its node "
                "was lost)"
            )
        code = "" if self.exit_code is None else f" with exit code {self.exit_code}"
        message = f": {self.message}" if self.message else ""
        if self.deleted:
            return f"{where} was deleted and ended{code}"
        return f"{where} ended{code} ({self.reason}){message}"


class PodFailures:
    """The terminations of the pods so far.

    Args:
        last_lines: returns the end of a pod's log, given its name and whether its container has been restarted since.
    """

    def __init__(self, last_lines: Callable[[str, bool], Sequence[str]]) -> None:
        self._last_lines = last_lines
        self._seen: set[tuple[str, str]] = set()
        self._alive: dict[str, tuple[str, str]] = {}
        self._failures: list[PodFailure] = []
        self._survived = 0

    def look_at(self, pods: Sequence[Mapping[str, Any]], suspended: bool = False) -> list[PodFailure]:
        """Records the failures since the last call, and returns them.

        Args:
            suspended: whether the TrainJob is suspended, which deletes its pods.
        """
        new = [failure for pod in pods for failure in self._failures_of(pod)]
        names = {pod["metadata"]["name"] for pod in pods}
        for name in [name for name in self._alive if name not in names]:
            node, index = self._alive.pop(name)
            has_failed = any(failure.pod == name for failure in [*self._failures, *new])
            message = "the TrainJob is suspended" if suspended else "it was removed after it had failed" * has_failed
            new.append(PodFailure(name, node, index, GONE, None, message, (), deleted=True))
        self._failures += new
        self._alive = {
            pod["metadata"]["name"]: (pod["spec"].get("nodeName", ""), node_index(pod))
            for pod in pods
            if "running" in node_container(pod).get("state", {})
        }
        return new

    def survive(self) -> None:
        """All nodes have trained for a while: the job has recovered from the failures so far."""
        self._survived = len(self._failures)

    def repeated(self) -> bool:
        """Whether a node failed twice in a row with exit code 1 and the same last line, and no pod was lost in between:
        another attempt would fail in the same way."""
        if len(self._failures) < 2:
            return False
        last = self._failures[-1]
        earlier = [failure for failure in self._failures[:-1] if failure.index == last.index]
        return (
            bool(earlier)
            and not any(failure.deleted or failure.reason != "Error" for failure in self._failures)
            and last.exit_code == earlier[-1].exit_code == 1
            and bool(last.last_lines and earlier[-1].last_lines)
            and _alike(last.last_lines[-1], earlier[-1].last_lines[-1])
        )

    def describe(self, trainjob: Mapping[str, Any], osft: Mapping[str, Any], node_0_lines: Sequence[str]) -> str:
        """The failure, for a person: which pod, how it ended, the last lines of its log, and what usually helps.

        Args:
            trainjob, osft: of the training config, for advice on which values to change.
            node_0_lines: the last relevant lines of node 0, if its log was followed.
        """
        cause = self._cause()
        if cause is None:
            lines = [f"  {line}" for line in node_0_lines][-_LINES_SHOWN:]
            return "\n".join(["no failed pod was observed", *(["the last lines of node 0:", *lines] if lines else [])])
        last_lines = cause.last_lines or (node_0_lines if cause.index == "0" else ())
        text = [cause.sentence()]
        if len(self._failures) > 1:
            text.append(f"{len(self._failures)} terminations of pods in all")
        if last_lines:
            text += ["its last lines:", *(f"  {line}" for line in list(last_lines)[-_LINES_SHOWN:])]
        if advice := _advice(cause, last_lines, trainjob, osft):
            text.append(advice)
        return "\n".join(text)

    def _cause(self) -> PodFailure | None:
        """The termination that made the job fail: a node's last one, unless the job recovered from it."""
        candidates = self._failures[self._survived :] or self._failures
        # The Job controller removes a pod that has failed too often, even one just restarted.
        failed = {failure.pod for failure in candidates if not failure.deleted}
        last_ends = {
            failure.index: failure for failure in candidates if not failure.deleted or failure.pod not in failed
        }
        # When several nodes fail together, most fail because the first did. A reason that says more than an exit code
        # is the likelier cause.
        return min(
            last_ends.values(),
            key=lambda failure: (failure.deleted, failure.reason in _PLAIN, failure.finished or "~"),
            default=None,
        )

    def _failures_of(self, pod: Mapping[str, Any]) -> list[PodFailure]:
        """The new terminations of a pod's container: its current state and its last one."""
        status, container = pod.get("status", {}), node_container(pod)
        ends = [(container.get(place, {}).get("terminated"), place == "lastState") for place in ("lastState", "state")]
        evicted = (status.get("phase") == "Failed" and status.get("reason")) or ""
        found = [
            failure
            for ended, restarted in ends
            if ended and not (evicted and not restarted) and (failure := self._failure(pod, ended, restarted))
        ]
        if evicted:
            ended = container.get("state", {}).get("terminated") or {}
            failure = self._failure(pod, {**ended, "reason": evicted, "message": status.get("message")}, False)
            found += [failure] if failure else []
        return found

    def _failure(self, pod: Mapping[str, Any], ended: Mapping[str, Any], restarted: bool) -> PodFailure | None:
        # One termination is one entry, whether it is observed as `state` or `lastState`.
        metadata = pod["metadata"]
        key = (metadata.get("uid", metadata["name"]), ended.get("containerID") or ended.get("finishedAt") or "")
        if key in self._seen or (ended.get("exitCode") == 0 and ended.get("reason") in (None, "Completed")):
            return None
        self._seen.add(key)
        return PodFailure(
            metadata["name"],
            pod["spec"].get("nodeName", ""),
            node_index(pod),
            ended.get("reason") or "Error",
            ended.get("exitCode"),
            _message(ended.get("message") or ""),
            tuple(self._last_lines(metadata["name"], restarted)),
            ended.get("finishedAt") or "",
            deleted="deletionTimestamp" in metadata and not restarted,
        )


def _message(text: str) -> str:
    """A container's termination message in plain text. The training script writes its progress there, as JSON."""
    try:
        progress = json.loads(text)
        step, total = progress["currentStep"], progress["totalSteps"]
        return f"after step {step} of {total} ({progress['progressPercentage']} %)"
    except (ValueError, KeyError, TypeError):
        return "" if text.lstrip().startswith("{") else tidy(text)


def _alike(one: str, other: str) -> bool:
    return _VARYING.sub("0", one) == _VARYING.sub("0", other)


def _advice(failure: PodFailure, lines: Sequence[str], trainjob: Mapping[str, Any], osft: Mapping[str, Any]) -> str:
    if failure.reason == "Evicted":
        # Its exit code is 137, as if the container had run out of memory.
        return "The node ran out of a resource: raise the one that the message names, or choose other nodes"
    text = "\n".join([*lines, *failure.last_lines])
    if any(sign in text for sign in _OUT_OF_GPU_MEMORY):
        return (
            f"The GPU ran out of memory: lower training_max_tokens_per_gpu (now {osft['max_tokens_per_gpu']}) "
            f"or training_unfreeze_rank_ratio (now {osft.get('unfreeze_rank_ratio')}), or use more GPUs "
            f"(training_resource_gpu_per_worker, now {trainjob['gpu_per_worker']})"
        )
    if any(sign in text for sign in _OUT_OF_SHARED_MEMORY):
        return (
            "/dev/shm is too small: raise training_resource_shared_memory_per_worker "
            f"(now {trainjob.get('shared_memory_per_worker')})"
        )
    if failure.reason == "OOMKilled" or (failure.reason == "Error" and failure.exit_code == _SIGKILL_EXIT_CODE):
        return (
            "The pod ran out of memory: raise training_resource_memory_per_worker "
            f"(now {trainjob['memory_per_worker']})"
        )
    return ""
