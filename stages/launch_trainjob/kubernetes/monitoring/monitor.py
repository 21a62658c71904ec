"""Follows a TrainJob to its end: polls it, logs its state and its log, and enforces the deadlines."""

import os
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from kfp_osft.shared.parameters.environment import secret_values
from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import shown
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.kubernetes.client import Cluster
from kfp_osft.stages.launch_trainjob.kubernetes.errors import ClusterError, Forbidden
from kfp_osft.stages.launch_trainjob.kubernetes.job import Job
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.deadlines import Deadlines
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.events import in_order, since
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.kueue import QueueReason, queue_reason
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.pod_failures import PodFailures
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.pod_log import PodLog
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.state import (
    COMPLETE,
    FAILED,
    QUEUED,
    RUNNING,
    STARTING,
    JobState,
    current_pods,
    node_container,
    node_index,
    read_phase,
    read_state,
)
from kfp_osft.stages.launch_trainjob.kubernetes.timing import Timing
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import NODE
from kfp_osft.stages.launch_trainjob.train_result import COMPLETE_FILE
from kfp_osft.stages.launch_trainjob.trainer_output import TrainerOutput

_LAST_LINES = 40
# After its log has ended, a pod may exist for a few seconds only.
_HURRIED_POLLS = 20
_PODS_WITH_EVENTS = 4


class Monitor:
    """Follows one TrainJob.

    Args:
        cluster: of the TrainJob.
        job: the TrainJob.
        config: the training's.
        timing: intervals and limits.
        log_file: receives the log of node 0.
    """

    def __init__(self, cluster: Cluster, job: Job, config: TrainingConfig, timing: Timing, log_file: TextIO) -> None:
        self._cluster, self._job, self._config, self._timing = cluster, job, config, timing
        self._log_file = log_file
        self._output = TrainerOutput(num_epochs=config.osft.get("num_epochs") or 1)
        self._secrets = secret_values(dict(os.environ))
        self._failures = PodFailures(self._last_lines)
        self._deadlines = Deadlines(config.trainjob, timing)
        self._unanswered_since: float | None = None
        self._log_ended = threading.Event()
        self._hurried_polls = 0
        self._sees_workloads = True
        self._running_since: float | None = None
        self._phase, self._sentence = STARTING, ""
        self._pod_log = PodLog(cluster, self._on_line, self._on_log_trouble, self._log_ended.set, timing.poll)

    def wait_for_completion(self) -> None:
        """Returns when the TrainJob is complete.

        Raises:
            TrainingError: it failed by itself, and is kept (job.exists is False then); or it must be deleted.
            ClusterError: it can no longer be followed.
        """
        self._cluster.patience = self._timing.look
        try:
            while not self._is_complete():
                self._wait()
        finally:
            self._pod_log.end(0)

    def _is_complete(self) -> bool:
        try:
            state = self._poll()
        except ClusterError as error:
            self._tolerate(error)
            return False
        if self._unanswered_since is not None:
            log("The cluster's API server answers again")
            self._unanswered_since = None
        self._phase = state.phase
        if state.phase in (COMPLETE, FAILED):
            self._pod_log.end(self._timing.log)
        if state.sentence != self._sentence:
            self._sentence = state.sentence
            log(state.sentence)
        if state.phase == COMPLETE:
            return True
        if state.phase == FAILED:
            # It holds no GPUs and is worth inspecting: it is kept, and the next attempt replaces it.
            self._job.exists = False
            raise TrainingError(f"{self._job.place} failed: {state.sentence}\n{self._description()}")
        if state.phase != RUNNING:
            self._running_since = None
        elif self._running_since is None:
            self._running_since = time.monotonic()
        elif time.monotonic() - self._running_since > self._timing.recovery:
            self._failures.survive()
        if overrun := self._deadlines.overrun(state.phase, state.sentence, bool(state.trouble)):
            raise TrainingError(f"{self._job.place} {overrun}")
        return False

    def _poll(self) -> JobState:
        job = self._job.get()
        if job is None:
            self._job.exists = False
            return self._gone()
        listed = self._job.pods(f",jobset.sigs.k8s.io/replicatedjob-name={NODE}")
        self._handle_failures(self._failures.look_at(listed, suspended=bool(job["spec"].get("suspend"))))
        pods = current_pods(listed)
        for pod in pods:
            container = node_container(pod)
            if node_index(pod) == "0" and {"running", "terminated"} & set(container.get("state", {})):
                self._pod_log.read_from(pod["metadata"]["name"], container.get("restartCount", 0))
        nodes = self._config.trainjob["num_workers"]
        phase = read_phase(job, pods, nodes)
        events = self._events(job, pods) if phase == STARTING else []
        queue = queue_reason(self._workloads(), self._queue_events(), job) if phase == QUEUED else QueueReason()
        return read_state(job, pods, events, nodes, queue)

    def _gone(self) -> JobState:
        """The TrainJob no longer exists: deleted by somebody or, after completion, by its time to live."""
        self._pod_log.end(self._timing.log)
        if Path(self._config.osft["ckpt_output_dir"], COMPLETE_FILE).exists():
            return JobState(COMPLETE, f"Complete; {self._job.place} is already gone")
        raise TrainingError(f"{self._job.place} is gone: somebody deleted it during the training")

    def _handle_failures(self, new: list[Any]) -> None:
        for failure in new:
            log(f"{failure.sentence()[0].upper()}{failure.sentence()[1:]}")
        if new:
            self._hurried_polls = _HURRIED_POLLS
        final = next((failure for failure in new if failure.is_final), None)
        if final is None and not (new and self._failures.repeated()):
            return
        self._pod_log.end(self._timing.log)
        reason = "and every retry would fail in the same way" if final else "twice in the same way"
        raise TrainingError(f"{self._job.place} failed {reason}\n{self._description()}")

    def _description(self) -> str:
        return self._failures.describe(self._config.trainjob, self._config.osft, self._output.last_words())

    def _tolerate(self, error: ClusterError) -> None:
        """A running training survives an API server that does not answer; only one that stays unavailable, or keeps
        denying access, ends it, since nobody could follow it."""
        now = time.monotonic()
        if self._unanswered_since is None:
            self._unanswered_since = now
            log(f"{error}. The training continues; retrying")
        limit = self._timing.refused if isinstance(error, Forbidden) else self._timing.unreachable
        if now - self._unanswered_since > limit:
            raise error
        if overrun := self._deadlines.overrun(self._phase, self._sentence, False):
            raise TrainingError(f"{self._job.place} {overrun}; {error}")

    def _wait(self) -> None:
        """Waits until the next poll: briefly while much happens, not at all when the log has ended."""
        hurry = self._hurried_polls > 0 or self._phase == STARTING
        self._hurried_polls = max(0, self._hurried_polls - 1)
        if self._log_ended.wait(min(self._timing.hurry, self._timing.poll) if hurry else self._timing.poll):
            self._log_ended.clear()
            self._hurried_polls = _HURRIED_POLLS

    def _events(self, job: dict[str, Any], pods: list[Any]) -> list[Any]:
        """The events about the TrainJob, its JobSet, its Job and its pods, oldest first.

        Selected by uid: those of an earlier TrainJob of the same name are kept for an hour. The uids of JobSet and Job
        are not known, as they may not be read; of their events those since the creation of the TrainJob count.
        """
        name, created = self._job.name, job["metadata"].get("creationTimestamp", "")
        found = self._cluster.events(uid=job["metadata"]["uid"])
        for kind, child in (("JobSet", name), ("Job", f"{name}-{NODE}-0")):
            found += since(self._cluster.events(name=child, kind=kind), created)
        for pod in pods[:_PODS_WITH_EVENTS]:
            found += self._cluster.events(uid=pod["metadata"]["uid"])
        return in_order(found)

    def _workloads(self) -> list[Any] | None:
        workloads = self._cluster.workloads() if self._sees_workloads else None
        self._sees_workloads = workloads is not None
        return workloads

    def _queue_events(self) -> list[Any]:
        return [] if self._sees_workloads else self._cluster.events(kind="Workload")

    def _on_line(self, raw: str) -> None:
        if self._log_file.closed:
            return
        line = shown(raw, self._secrets)
        self._log_file.write(f"{line}\n")
        self._log_file.flush()
        if (readable := self._output.read(line)) is not None:
            log(readable)

    @staticmethod
    def _on_log_trouble(problem: str) -> None:
        log(f"Warning: the log of the training cannot be read, the training continues: {problem}")

    def _last_lines(self, pod: str, restarted: bool) -> list[str]:
        output = TrainerOutput(num_epochs=1)
        try:
            text = b"".join(self._cluster.pod_log(pod, NODE, previous=restarted, tail_lines=_LAST_LINES * 10))
        except ClusterError:
            return []
        for line in text.decode("utf-8", errors="replace").splitlines():
            output.read(shown(line.partition(" ")[2], self._secrets))
        return output.last_words(_LAST_LINES)
