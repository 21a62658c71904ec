"""The Kubernetes engine: trains as a TrainJob, follows it to its end and never leaves it running."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.ownership import Ownership, owned
from kfp_osft.shared.processes.termination import Terminated, terminable
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import keep_secret
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.kubernetes.client import Cluster
from kfp_osft.stages.launch_trainjob.kubernetes.job import Job, owner_of_this_pod, trainjob_lives
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.monitor import Monitor
from kfp_osft.stages.launch_trainjob.kubernetes.pods import TrainingPods, training_pods
from kfp_osft.stages.launch_trainjob.kubernetes.timing import Timing
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import pods_field, trainjob_name, trainjob_spec

_NAMESPACED_RUNTIME = "TrainingRuntime"
_TIMING = Timing()


@dataclass(frozen=True)
class Task:
    """The task in a pipeline run that trains.

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


class ClusterTraining:
    """The training of this task as a TrainJob.

    Args:
        cluster: where to train.
        config: from preprocess.
        task: the calling task.
        timing: how to wait.

    Attributes:
        name: of the TrainJob.

    Raises:
        InputError: it could not train or not see its data: no Trainer or runtime, no volume, a missing right.
    """

    def __init__(self, cluster: Cluster, config: TrainingConfig, task: Task, timing: Timing = _TIMING) -> None:
        cluster.patience = timing.creation
        self._pods = training_pods(config, task.pvc_path, task.task_config, os.environ)
        # An admission webhook may repeat them.
        keep_secret(*self._pods.secret_env.values())
        for warning in (*self._pods.warnings, *_claim_warnings(cluster, self._pods, config.trainjob["num_workers"])):
            log(f"Warning: {warning}")
        field = pods_field(cluster.trainer_api())
        runtime_kind = _NAMESPACED_RUNTIME if cluster.training_runtime(config.trainjob["runtime"]) else None
        self._spec = trainjob_spec(config, self._pods, field, runtime_kind)
        self.name = trainjob_name(task.run_name, task.run_id, task.task_name, self._spec)
        self._cluster, self._config, self._timing = cluster, config, timing
        self._job = Job(cluster, self.name, config, timing)

    def owning(self, file: Path) -> AbstractContextManager[Ownership]:
        """Owns the checkpoints: the TrainJob does, and so every launcher of this task, one after the other.

        Waits for the training of another run.
        """
        return owned(
            file,
            self._job.place,
            key=f"{self._cluster.namespace}/{self.name}",
            lives=partial(trainjob_lives, self._cluster),
            pace=self._timing.pace,
        )

    def train(self, ownership: Ownership, log_path: Path, before_creation: Callable[[], bool]) -> None:
        """Trains and returns when it is complete.

        A TrainJob of this very task that is running or complete is adopted; one that failed is replaced. If it still
        runs when this call ends (by an error, SIGTERM or Ctrl-C), it is deleted and its pods are waited for, unless
        another launcher of this task follows it. One that failed by itself is kept for inspection. As long as it or one
        of its pods may still write, the owner record stays, by which another run asks the cluster.

        Args:
            ownership: of owning().
            log_path: file for the log of node 0.
            before_creation: called just before a new TrainJob is created.

        Raises:
            InputError: the cluster refuses the TrainJob. Nothing is left running.
            TrainingError: it could not start, or failed; names the pod, the reason and its last lines.
        """
        job, cluster = self._job, self._cluster
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with (
            terminable(),
            # A followed log is read from its start, by a second launcher too.
            log_path.open("w", encoding="utf-8") as log_file,
        ):
            try:
                if not job.adopt():
                    before_creation()
                    job.create(self._spec, self._pods, owner_of_this_pod(cluster))
                Monitor(cluster, job, self._config, self._timing, log_file).wait_for_completion()
            except BaseException as error:
                ownership.stays = True
                # Before anything else, even closing files, which a volume may delay.
                if job.exists and ownership.other_is_alive:
                    log(f"{job.place} is left running: another launcher of this task follows it")
                else:
                    _clean_up(job, isinstance(error, Terminated))
                ownership.stays = job.may_write()
                raise


def _clean_up(job: Job, terminated: bool) -> None:
    """Deletes a TrainJob that still runs, even if SIGTERM arrives meanwhile."""
    try:
        if job.exists:
            job.delete(quietly=terminated)
    except Terminated:
        if job.exists:
            job.delete(quietly=True)
        raise


def _claim_warnings(cluster: Cluster, pods: TrainingPods, workers: int) -> list[str]:
    warnings = []
    for claim in pods.claims():
        modes = cluster.access_modes(claim)
        if not modes or "ReadWriteMany" in modes:
            continue
        if modes == ["ReadWriteOncePod"]:
            raise InputError(
                f"the claim {claim} is ReadWriteOncePod and mounted by this pod, so no training pod can "
                "mount it; use ReadWriteMany"
            )
        if "ReadWriteOnce" in modes:
            who = f"all {workers} training pods" if workers > 1 else "the training pod"
            warnings.append(
                f"the claim {claim} is ReadWriteOnce: {who} must run on the same node as this pod, or "
                "will not start; ReadWriteMany has no such limit"
            )
    return warnings
