"""The Kubernetes engine: a training as a TrainJob, followed to its end and never left behind."""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kfp_osft.shared.parameters.environment import blot_out, secret_values
from kfp_osft.shared.processes.termination import terminable
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.kubernetes.client import Cluster, ClusterUnavailable, Forbidden, Refused
from kfp_osft.stages.launch_trainjob.kubernetes.pod_failures import PodFailures
from kfp_osft.stages.launch_trainjob.kubernetes.pod_log import PodLog
from kfp_osft.stages.launch_trainjob.kubernetes.pods import TrainingPods, training_pods
from kfp_osft.stages.launch_trainjob.kubernetes.state import (
    COMPLETE,
    FAILED,
    QUEUED,
    RUNNING,
    JobState,
    node_container,
    read_state,
)
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import (
    MANAGED_BY,
    NODE,
    TRAINING_ANNOTATION,
    dropped_fields,
    pods_field,
    trainjob,
    trainjob_name,
    trainjob_spec,
)
from kfp_osft.stages.launch_trainjob.trainer_output import TrainerOutput

_MINUTE = 60
_LAST_LINES = 40
_CONFLICT = 409
_NAMESPACED_RUNTIME = "TrainingRuntime"


@dataclass(frozen=True)
class Timing:
    """How the engine waits, in seconds.

    Attributes:
        poll: between two looks at the TrainJob.
        trouble: how long a reason that hardly mends by itself (an image that cannot be pulled) may stand.
        refused: how long the API server may refuse the token, or the right to look, while a training runs.
        deletion: how long to wait for a deleted TrainJob's pods to be gone.
        log: how long to wait for the rest of the log of a training that has ended.
    """

    poll: float = 5
    trouble: float = 120
    refused: float = 600
    deletion: float = 120
    log: float = 20


@dataclass(frozen=True)
class Task:
    """The task of a pipeline run that trains.

    Attributes:
        run_name, run_id: of the pipeline run, or empty.
        task_name: of the task in it, or empty.
        pvc_path: the workspace.
        task_config: KFP's TaskConfig, or None.
    """

    run_name: str
    run_id: str
    task_name: str
    pvc_path: str
    task_config: Any


def train_on_cluster(
    cluster: Cluster,
    config: TrainingConfig,
    task: Task,
    log_path: Path,
    before_creation: Callable[[], None],
    timing: Timing = Timing(),
) -> str:
    """Trains as a TrainJob and returns its name when it is complete.

    A TrainJob of this very task that runs, or is complete, is taken up; one that failed is replaced. Unless it is
    complete the TrainJob is deleted, and that is waited for, whatever ends this call: an error, SIGTERM, Ctrl-C.

    Args:
        cluster: where to train.
        config: what preprocess checked.
        task: who asks.
        log_path: the log of node 0 is written to this file.
        before_creation: is called just before a new TrainJob is created.
        timing: how to wait.

    Raises:
        InputError: what would not train, or not see its data: no Trainer or runtime, no volume, no right. Nothing is
            left running.
        TrainingError: it could not start, or failed; with pod, reason and last lines.
    """
    pods = training_pods(config, task.pvc_path, task.task_config, os.environ)
    for warning in (*pods.warnings, *_claim_warnings(cluster, pods, config.trainjob["num_workers"])):
        log(f"Warning: {warning}")
    runtime = config.trainjob["runtime"]
    field = pods_field(cluster.trainer_api())
    spec = trainjob_spec(config, pods, field, _runtime_kind(cluster, runtime))
    name = trainjob_name(task.run_name, task.run_id, task.task_name, spec)
    log_path.parent.mkdir(parents=True, exist_ok=True)

    complete = False
    job = _Job(cluster, name, config, timing)
    with terminable() as termination:
        try:
            if not job.take_up():
                before_creation()
                # A request that is under way cannot be taken back: its TrainJob would be there after the clean-up.
                with termination.held_back():
                    job.create(spec, pods)
            # A log that is followed is read from its start, also by a second launcher.
            with log_path.open("w", encoding="utf-8") as log_file:
                job.follow(log_file)
            complete = True
        finally:
            if job.ours and not complete:
                job.delete()
    return name


class _Job:
    """One TrainJob, from finding or creating it to its end.

    Attributes:
        ours: whether there may be one that has to be deleted.
    """

    def __init__(self, cluster: Cluster, name: str, config: TrainingConfig, timing: Timing) -> None:
        self.ours = False
        self._cluster, self._name, self._config, self._timing = cluster, name, config, timing
        self._place = f"TrainJob {name} in namespace {cluster.namespace}"
        self._output = TrainerOutput(num_epochs=config.osft.get("num_epochs") or 1)
        self._secrets = secret_values(dict(os.environ))

    def take_up(self) -> bool:
        """Looks for a TrainJob that an earlier attempt left. True: it runs or is complete, and will be followed."""
        found = self._cluster.trainjob(self._name)
        if found is None:
            return False
        metadata = found["metadata"]
        if metadata.get("annotations", {}).get(TRAINING_ANNOTATION) != self._config.fingerprint:
            raise InputError(f"there is a {self._place} that this task has not made; delete or rename it")
        self.ours = True
        if metadata.get("deletionTimestamp"):
            log(f"{self._place} of an earlier attempt is being deleted")
        elif read_state(found, [], []).phase == FAILED:
            log(f"{self._place} of an earlier attempt failed: replaced")
        else:
            log(f"{self._place} of an earlier attempt is there: followed")
            return True
        self.delete()
        return False

    def create(self, spec: dict[str, Any], pods: TrainingPods) -> None:
        secret = f"{self._name}-env-{secrets.token_hex(3)}" if pods.secret_env else ""
        if secret:
            # Known before a GPU is asked for.
            self._create_secret(secret, pods.secret_env, None)
        body = trainjob(
            self._name, spec, self._config, {secret: sorted(pods.secret_env)} if secret else {}, _owner(self._cluster)
        )
        self.ours = True
        try:
            stored = self._cluster.create_trainjob(body)
        except Forbidden:
            self.ours = False
            raise
        except Refused as error:
            if error.status != _CONFLICT:
                self.ours = False
                more = f". {_runtimes(self._cluster)}" if "runtime" in str(error).lower() else ""
                raise InputError(f"{error}{more}") from None
            # It was created by a request whose answer was lost, and which was sent again.
            stored = self._cluster.trainjob(self._name) or {}
        if stored.get("metadata", {}).get("annotations", {}).get(TRAINING_ANNOTATION) != self._config.fingerprint:
            raise InputError(f"the cluster did not store the {self._place} as it was sent")
        if dropped := dropped_fields(body["spec"], stored["spec"]):
            raise InputError(
                f"the cluster's Trainer does not know {', '.join(dropped)}, and dropped it: the training "
                "would run without; this generation of the Trainer is not supported"
            )
        if secret:
            self._create_secret(secret, pods.secret_env, stored)
        log(
            f"{self._place} created: {self._config.trainjob['num_workers']} x "
            f"{_resources(pods)}, runtime {self._config.trainjob['runtime']}"
        )

    def follow(self, log_file: TextIO) -> None:
        """Returns when the TrainJob is complete."""

        def on_line(raw: str) -> None:
            if log_file.closed:
                return
            line = blot_out(raw, self._secrets)
            log_file.write(f"{line}\n")
            log_file.flush()
            if (readable := self._output.read(line)) is not None:
                log(readable)

        pod_log = PodLog(
            self._cluster,
            on_line,
            lambda problem: log(f"Warning: the training's log cannot be read, the training goes on: {problem}"),
            self._timing.poll,
        )
        try:
            self._follow(pod_log)
        finally:
            pod_log.end(0)

    def delete(self) -> None:
        """Deletes the TrainJob and waits until its pods are gone."""
        log(f"Deleting {self._place}")
        until = time.monotonic() + self._timing.deletion
        try:
            self._cluster.delete_trainjob(self._name)
            while self._cluster.trainjob(self._name) is not None:
                if time.monotonic() > until:
                    log(f"Warning: {self._place} is still being deleted after {self._timing.deletion:.0f} s")
                    return
                time.sleep(min(1, self._timing.poll))
        except (ClusterUnavailable, InputError) as error:
            log(
                f"Warning: {self._place} may still hold its GPUs, it could not be deleted: {error}. Delete it with: "
                f"kubectl delete trainjob {self._name} -n {self._cluster.namespace}"
            )
            return
        self.ours = False
        log(f"{self._place} is deleted")

    def _follow(self, pod_log: PodLog) -> None:
        failures = PodFailures(self._last_lines)
        clock = _Clock(self._config.trainjob, self._timing)
        told, unanswered_since = "", None
        while True:
            try:
                state = self._look(pod_log, failures)
            except (ClusterUnavailable, Forbidden) as error:
                # Neither ends a training that runs; a token that stays refused ends it, for nobody could follow it.
                now = time.monotonic()
                if unanswered_since is None:
                    unanswered_since = now
                    log(f"{error}. The training goes on; asking again")
                if isinstance(error, Forbidden) and now - unanswered_since > self._timing.refused:
                    raise
                time.sleep(self._timing.poll)
                continue
            if unanswered_since is not None:
                log("The cluster's API server answers again")
                unanswered_since = None
            if state.phase in (COMPLETE, FAILED):
                pod_log.end(self._timing.log)
            if state.sentence != told:
                told = state.sentence
                log(told)
            if state.phase == COMPLETE:
                return
            if state.phase == FAILED:
                raise TrainingError(
                    f"{self._place} failed: {state.sentence}\n"
                    + failures.describe(self._config.trainjob, self._config.osft, self._output.last_words())
                )
            if overrun := clock.overrun(state):
                raise TrainingError(f"{self._place} {overrun}")
            time.sleep(self._timing.poll)

    def _look(self, pod_log: PodLog, failures: PodFailures) -> JobState:
        job = self._cluster.trainjob(self._name)
        if job is None:
            self.ours = False
            raise TrainingError(f"{self._place} is gone: somebody deleted it while it trained")
        pods = self._cluster.pods(
            f"jobset.sigs.k8s.io/jobset-name={self._name},jobset.sigs.k8s.io/replicatedjob-name={NODE}"
        )
        for failure in failures.look_at(pods):
            log(f"{failure.sentence()[0].upper()}{failure.sentence()[1:]}")
        for pod in pods:
            if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-completion-index") == "0":
                container = node_container(pod)
                if "running" in container.get("state", {}) or "terminated" in container.get("state", {}):
                    pod_log.read_from(pod["metadata"]["name"], container.get("restartCount", 0))
        state = read_state(job, pods, [])
        if state.phase in (QUEUED, RUNNING, COMPLETE, FAILED):
            return state
        # Only a job that does not run needs the events.
        about = [self._name, f"{self._name}-{NODE}-0", *(pod["metadata"]["name"] for pod in pods)]
        return read_state(job, pods, [event for name in about for event in self._cluster.events(name)])

    def _last_lines(self, pod: str, restarted: bool) -> list[str]:
        output = TrainerOutput(num_epochs=1)
        try:
            text = b"".join(self._cluster.pod_log(pod, NODE, previous=restarted, tail_lines=_LAST_LINES * 10))
        except (ClusterUnavailable, InputError):
            return []
        for line in text.decode("utf-8", errors="replace").splitlines():
            output.read(blot_out(line.partition(" ")[2], self._secrets))
        return output.last_words(_LAST_LINES)

    def _create_secret(self, name: str, values: dict[str, str], owner: dict[str, Any] | None) -> None:
        """Creates it, owned by the TrainJob; without an owner it only sees whether that is allowed."""
        metadata: dict[str, Any] = {"name": name, "labels": MANAGED_BY}
        if owner:
            metadata["ownerReferences"] = [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": self._name,
                    "uid": owner["metadata"]["uid"],
                }
            ]
        try:
            self._cluster.create_secret(
                {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "stringData": values},
                dry_run=owner is None,
            )
        except Forbidden as error:
            names = ", ".join(sorted(values))
            raise InputError(
                f"{names} is given to this task as a value, and would go to the training pods in a Secret, which may "
                f"not be created: {error}. Give it from a Secret of the namespace "
                "(kfp.kubernetes.use_secret_as_env on the task), or allow the verb"
            ) from None


class _Clock:
    """The deadlines: for the start, for what hardly mends by itself, for the training."""

    def __init__(self, trainjob_: dict[str, Any], timing: Timing) -> None:
        self._start_minutes = trainjob_["start_deadline_minutes"]
        self._limit_minutes = trainjob_["time_limit_minutes"]
        self._trouble_limit = timing.trouble
        self._starting_since: float | None = None
        self._running_since: float | None = None
        self._trouble_since: float | None = None

    def overrun(self, state: JobState) -> str:
        """What has taken too long, as the end of a sentence; empty if nothing has."""
        now = time.monotonic()
        starting = state.phase not in (QUEUED, RUNNING)
        self._starting_since = (self._starting_since or now) if starting else None
        self._trouble_since = (self._trouble_since or now) if state.trouble else None
        if state.phase == RUNNING:
            self._running_since = self._running_since or now
        if self._trouble_since is not None and now - self._trouble_since > self._trouble_limit:
            return f"cannot start. {state.sentence}"
        if self._starting_since is not None and now - self._starting_since > self._start_minutes * _MINUTE:
            return f"has not started within training_start_deadline_minutes={self._start_minutes}. {state.sentence}"
        if (
            self._limit_minutes
            and self._running_since is not None
            and now - self._running_since > self._limit_minutes * _MINUTE
        ):
            return f"has trained longer than training_time_limit_minutes={self._limit_minutes}"
        return ""


def _runtime_kind(cluster: Cluster, name: str) -> str | None:
    """TrainingRuntime where the namespace has one of that name; None for the cluster's."""
    try:
        return _NAMESPACED_RUNTIME if cluster.training_runtime(name) else None
    except Forbidden:
        return None


def _runtimes(cluster: Cluster) -> str:
    try:
        names = cluster.runtime_names()
    except ClusterUnavailable:
        names = []
    return (
        f"Runtimes that training_runtime can name: {', '.join(names)}"
        if names
        else "This token may not see which runtimes there are; ask whoever runs the cluster"
    )


def _owner(cluster: Cluster) -> dict[str, Any] | None:
    """The launcher's own pod as owner, with which the TrainJob goes; None where this is not a pod of that cluster,
    since Kubernetes deletes an object at once whose owner is not there."""
    name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
    if not name or not uid:
        return None
    try:
        pod = cluster.pod(name)
    except Forbidden:
        return None
    if not pod or pod["metadata"].get("uid") != uid:
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def _claim_warnings(cluster: Cluster, pods: TrainingPods, workers: int) -> list[str]:
    warnings = []
    for claim in pods.claims():
        modes = cluster.access_modes(claim)
        if not modes or "ReadWriteMany" in modes:
            continue
        if modes == ["ReadWriteOncePod"]:
            raise InputError(
                f"the claim {claim} is ReadWriteOncePod: this pod has it, so no training pod can mount "
                "it; use ReadWriteMany"
            )
        if "ReadWriteOnce" in modes:
            who = f"all {workers} training pods" if workers > 1 else "the training pod"
            warnings.append(
                f"the claim {claim} is ReadWriteOnce: {who} must run on the node of this pod, or will not "
                "start; ReadWriteMany has no such limit"
            )
    return warnings


def _resources(pods: TrainingPods) -> str:
    return ", ".join(f"{quantity} {name}" for name, quantity in pods.limits.items())
