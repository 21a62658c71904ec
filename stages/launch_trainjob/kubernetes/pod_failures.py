"""Why the pods of a TrainJob failed: gathered while it runs, because a pod that used up its retries is deleted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_osft.stages.launch_trainjob.kubernetes.state import node_container

#: The reason of a pod that was deleted before it had ended.
GONE = "gone"
_OUT_OF_HOST_MEMORY = ("OOMKilled",)
_OUT_OF_GPU_MEMORY = ("CUDA out of memory", "OutOfMemoryError", "HIP out of memory")
# NCCL's words, PyTorch's, and the kernel's for a page of a full memory file system (SIGBUS).
_OUT_OF_SHARED_MEMORY = ("/dev/shm", "shared memory segment", "unable to write to file </torch_", "Bus error")
_SIGKILL_EXIT_CODE = 137
_LINES_SHOWN = 20


@dataclass(frozen=True)
class PodFailure:
    """One end of one pod's container.

    Attributes:
        pod, node: names.
        reason: OOMKilled, Error, Evicted, GONE, ...
        exit_code: of the container; None where it has none.
        message: the kubelet's.
        last_lines: the end of the container's log.
    """

    pod: str
    node: str
    reason: str
    exit_code: int | None
    message: str
    last_lines: tuple[str, ...]

    def sentence(self) -> str:
        where = f"pod {self.pod}{f' on {self.node}' if self.node else ''}"
        if self.reason == GONE:
            return f"{where} is gone: it was deleted while it ran (evicted, preempted, or its node was lost)"
        code = "" if self.exit_code is None else f" with exit code {self.exit_code}"
        message = f": {self.message}" if self.message else ""
        return f"{where} ended{code} ({self.reason}){message}"


class PodFailures:
    """What has happened to the pods so far.

    Args:
        last_lines: gives the end of a pod's log, by its name and whether its container was started again since.
    """

    def __init__(self, last_lines: Callable[[str, bool], Sequence[str]]) -> None:
        self._last_lines = last_lines
        self._seen: set[tuple[str, int]] = set()
        self._alive: dict[str, str] = {}
        self._failures: list[PodFailure] = []

    def look_at(self, pods: Sequence[Mapping[str, Any]]) -> list[PodFailure]:
        """Takes note of what has failed since the last look, and returns that."""
        new = [failure for pod in pods if (failure := self._failure(pod))]
        self._failures += new
        names = {pod["metadata"]["name"] for pod in pods}
        for name in [name for name in self._alive if name not in names]:
            node = self._alive.pop(name)
            if not any(failure.pod == name for failure in self._failures):
                gone = PodFailure(name, node, GONE, None, "", ())
                self._failures.append(gone)
                new.append(gone)
        self._alive |= {
            pod["metadata"]["name"]: pod["spec"].get("nodeName", "")
            for pod in pods
            if "running" in node_container(pod).get("state", {})
        }
        return new

    def describe(self, trainjob: Mapping[str, Any], osft: Mapping[str, Any], node_0_lines: Sequence[str]) -> str:
        """Why, for a person: which pod and how it ended, the last lines of its log, what usually helps.

        Args:
            trainjob, osft: of the training config, for what to raise or lower.
            node_0_lines: the last lines of node 0 that matter, where they were followed.
        """
        if not self._failures:
            lines = [f"  {line}" for line in node_0_lines]
            return "\n".join(["no pod was seen that failed", *(["the last lines of node 0:", *lines] if lines else [])])
        # Pods of several nodes fall together, most of them because the first one did.
        first = self._failures[0]
        # A later end that says more than the first (OOMKilled, Evicted) is the likelier cause.
        cause = next((failure for failure in self._failures if failure.reason not in ("Error", GONE)), first)
        last_lines = (
            node_0_lines if node_0_lines and cause.pod.split("-node-0-")[-1].startswith("0") else cause.last_lines
        )
        told = [cause.sentence()]
        if len(self._failures) > 1:
            told.append(f"{len(self._failures)} ends of pods in all")
        if last_lines:
            told += ["its last lines:", *(f"  {line}" for line in list(last_lines)[-_LINES_SHOWN:])]
        if advice := _advice(cause, last_lines, trainjob, osft):
            told.append(advice)
        return "\n".join(told)

    def _failure(self, pod: Mapping[str, Any]) -> PodFailure | None:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        container = node_container(pod)
        ended, restarted = container.get("state", {}).get("terminated"), False
        if not ended:
            ended, restarted = container.get("lastState", {}).get("terminated"), True
        evicted = status.get("phase") == "Failed" and status.get("reason")
        if not evicted and (not ended or ended.get("exitCode") == 0):
            return None
        # One end is one entry, whether it is seen as the present state or as the last.
        end = container.get("restartCount", 0) - restarted
        key = (pod["metadata"].get("uid", name), end)
        if key in self._seen:
            return None
        self._seen.add(key)
        ended = ended or {}
        message = status.get("message") if evicted else ended.get("message")
        return PodFailure(
            name,
            pod["spec"].get("nodeName", ""),
            evicted or ended.get("reason") or "Error",
            ended.get("exitCode"),
            " ".join((message or "").split()),
            tuple(self._last_lines(name, restarted)),
        )


def _advice(failure: PodFailure, lines: Sequence[str], trainjob: Mapping[str, Any], osft: Mapping[str, Any]) -> str:
    text = "\n".join([*lines, *failure.last_lines])
    if any(sign in text for sign in _OUT_OF_GPU_MEMORY):
        return (
            f"The GPU's memory is too small: lower training_max_tokens_per_gpu ({osft['max_tokens_per_gpu']} now) "
            f"or training_unfreeze_rank_ratio ({osft.get('unfreeze_rank_ratio')} now), or use more GPUs "
            f"(training_resource_gpu_per_worker, {trainjob['gpu_per_worker']} now)"
        )
    if any(sign in text for sign in _OUT_OF_SHARED_MEMORY):
        return (
            "/dev/shm is too small: raise training_resource_shared_memory_per_worker "
            f"({trainjob.get('shared_memory_per_worker')} now)"
        )
    if failure.reason in _OUT_OF_HOST_MEMORY or failure.exit_code == _SIGKILL_EXIT_CODE:
        return (
            "The pod's memory is too small: raise training_resource_memory_per_worker "
            f"({trainjob['memory_per_worker']} now)"
        )
    if failure.reason == "Evicted":
        return "The node ran out of something: raise what the message names, or choose other nodes"
    return ""
