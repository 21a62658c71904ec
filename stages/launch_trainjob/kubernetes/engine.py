"""The Kubernetes engine: trains as a TrainJob, follows it to its end and never leaves it running."""

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_osft.shared.processes.termination import Terminated, terminable
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.kubernetes.client import Cluster
from kfp_osft.stages.launch_trainjob.kubernetes.job import Job, owner_of_this_pod
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.monitor import Monitor
from kfp_osft.stages.launch_trainjob.kubernetes.pods import TrainingPods, training_pods
from kfp_osft.stages.launch_trainjob.kubernetes.timing import Timing
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import pods_field, trainjob_name, trainjob_spec
from kfp_osft.stages.launch_trainjob.sign_of_life import SIGN_FILE, SignOfLife

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


def train_on_cluster(
    cluster: Cluster,
    config: TrainingConfig,
    task: Task,
    log_path: Path,
    before_creation: Callable[[], None],
    timing: Timing = _TIMING,
) -> str:
    """Trains as a TrainJob and returns its name when it is complete.

    A TrainJob of this very task that is running or complete is adopted; one that failed is replaced. If it still runs
    when this call ends (by an error, SIGTERM or Ctrl-C), it is deleted and its pods are waited for, unless another
    launcher of this task follows it. One that failed by itself is kept for inspection.

    Args:
        cluster: where to train.
        config: from preprocess.
        task: the calling task.
        log_path: file for the log of node 0.
        before_creation: called just before a new TrainJob is created.
        timing: how to wait.

    Raises:
        InputError: it could not train or not see its data: no Trainer or runtime, no volume, a missing right. Nothing
            is left running.
        TrainingError: it could not start, or failed; names the pod, the reason and its last lines.
    """
    cluster.patience = timing.creation
    pods = training_pods(config, task.pvc_path, task.task_config, os.environ)
    for warning in (*pods.warnings, *_claim_warnings(cluster, pods, config.trainjob["num_workers"])):
        log(f"Warning: {warning}")
    field = pods_field(cluster.trainer_api())
    runtime_kind = _NAMESPACED_RUNTIME if cluster.training_runtime(config.trainjob["runtime"]) else None
    spec = trainjob_spec(config, pods, field, runtime_kind)
    name = trainjob_name(task.run_name, task.run_id, task.task_name, spec)
    log_path.parent.mkdir(parents=True, exist_ok=True)

    job = Job(cluster, name, config, timing)
    launcher = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    with (
        terminable(),
        SignOfLife(Path(config.osft["ckpt_output_dir"], SIGN_FILE), launcher, timing.sign) as sign,
        # A followed log is read from its start, by a second launcher too.
        log_path.open("w", encoding="utf-8") as log_file,
    ):
        try:
            if not job.adopt():
                before_creation()
                job.create(spec, pods, owner_of_this_pod(cluster))
            Monitor(cluster, job, config, timing, log_file).wait_for_completion()
        except BaseException as error:
            # Before anything else, even closing files, which a volume may delay.
            if job.exists and sign.other_is_alive:
                log(f"{job.place} is left running: another launcher of this task follows it")
            else:
                _clean_up(job, isinstance(error, Terminated))
            raise
    return name


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
