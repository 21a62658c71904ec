"""launch_trainjob: runs the training, as a TrainJob on a cluster or in a process of this computer."""

import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kfp_osft.shared.files.atomic import writable_folder, write_json
from kfp_osft.shared.files.manifests import fingerprint, read_manifest, write_manifest
from kfp_osft.shared.files.ownership import OWNER_FILE, Ownership
from kfp_osft.shared.parameters.environment import LAUNCHER_VARIABLE, LOCAL, is_local
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.tracking.mlflow_run import tracked_run
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.shared.training.run_file import DATA_MANIFEST, RUN_FILE, TRAINING_LOG, data_made_from, read_run
from kfp_osft.stages.launch_trainjob.attempts import (
    clean_up,
    has_its_checkpoint,
    make_ready,
    note_seconds,
    spent_seconds,
    whole_checkpoints,
)
from kfp_osft.stages.launch_trainjob.kubernetes.connection import connect, is_configured
from kfp_osft.stages.launch_trainjob.kubernetes.engine import ClusterTraining, Task
from kfp_osft.stages.launch_trainjob.local_engine import LocalTraining
from kfp_osft.stages.launch_trainjob.train_result import METRICS_FILE

_TWO_WAYS = (
    "on a cluster, give the stage KUBERNETES_SERVER_URL and KUBERNETES_AUTH_TOKEN, or a service account that "
    f"may create TrainJobs; on this computer, set the environment variable {LAUNCHER_VARIABLE}={LOCAL}"
)


class Launched(NamedTuple):
    """The outputs of the stage."""

    checkpoint_dir: str
    trainjob_name: str


def launch(
    training_config: str, pvc_path: str, task_config: Any, run_name: str = "", run_id: str = "", task_name: str = ""
) -> Launched:
    """Trains and returns when the training is complete; a training that is already complete is not repeated.

    Args:
        training_config: what preprocess returned.
        pvc_path: the workspace that preprocess wrote to.
        task_config: KFP's TaskConfig of this task, for the pods of the TrainJob.
        run_name, run_id: of the pipeline run, for the TrainJob's name; a recurring run has none, and its Workflow's is
            taken.
        task_name: of this task in the run.

    Raises:
        InputError: a configuration that is not from preprocess, missing data, neither a cluster nor
            OSFT_LAUNCHER=local; what ClusterTraining raises.
        TrainingError: the training failed; with its last lines.
    """
    config = TrainingConfig.from_json(training_config)
    launcher = os.environ.get(LAUNCHER_VARIABLE, "")
    if launcher not in ("", LOCAL):
        raise InputError(f"{LAUNCHER_VARIABLE}={launcher} is not allowed; allowed: {LOCAL}, or unset for a cluster")
    use_workspace(writable_folder("pvc_path", pvc_path))
    checkpoint_dir, run_name = Path(config.osft["ckpt_output_dir"]), run_name or _workflow_name()
    of_this_run = {"data": config.data, "pipeline_run": {"id": run_id, "name": run_name}}
    if name := _complete_earlier(config, checkpoint_dir, of_this_run, tell=False):
        return Launched(str(checkpoint_dir), name)
    _check_data(config)
    training: _Training
    if is_local():
        training = LocalTraining(config)
    else:
        training = _cluster_training(config, Task(run_name, run_id, task_name, pvc_path, task_config))
    with training.owning(checkpoint_dir / OWNER_FILE) as ownership:
        # The one before may have completed it.
        if name := _complete_earlier(config, checkpoint_dir, of_this_run, tell=True):
            return Launched(str(checkpoint_dir), name)
        started = time.monotonic()
        try:
            training.train(ownership, checkpoint_dir / TRAINING_LOG, lambda: make_ready(checkpoint_dir))
        except BaseException:
            note_seconds(checkpoint_dir, spent_seconds(checkpoint_dir) + time.monotonic() - started)
            raise
        seconds = round(spent_seconds(checkpoint_dir) + time.monotonic() - started, 1)
        clean_up(checkpoint_dir)
        found = whole_checkpoints(checkpoint_dir)
        metrics = checkpoint_dir / METRICS_FILE
        write_manifest(
            checkpoint_dir / RUN_FILE,
            config.fingerprint,
            [metrics] if metrics.is_file() else [],
            trainjob_name=training.name,
            seconds=seconds,
            checkpoint=found[0].folder.name if found else None,
            osft=config.osft,
            trainjob=config.trainjob,
            env=config.env,
            about=config.about,
            **of_this_run,
        )
    log(f"Training complete after {duration_text(seconds)}: {checkpoint_dir}")
    _begin_tracking(checkpoint_dir)
    return Launched(str(checkpoint_dir), training.name)


def _check_data(config: TrainingConfig) -> None:
    """Sees that the data is there, whole, and what training_config was made for."""
    if not Path(config.osft["data_path"]).is_file():
        raise InputError(
            f"the data that preprocess wrote is not at {config.osft['data_path']}; "
            "this stage must see the same workspace"
        )
    folder, made_from = Path(config.osft["data_output_dir"]), data_made_from(config.osft)
    as_given = fingerprint(made_from) == config.data.get("made_from")
    if not as_given or read_manifest(folder / DATA_MANIFEST, made_from) is None:
        raise InputError(
            f"the data in {folder} is not whole, or not what training_config was made for; run preprocess again"
        )


def _complete_earlier(
    config: TrainingConfig, checkpoint_dir: Path, of_this_run: dict[str, Any], tell: bool
) -> str | None:
    """Name of the TrainJob of this training where it is complete already, with its checkpoint and its metrics.

    Args:
        of_this_run: fields that its record gets.
        tell: logs what is missing of a training that was complete.
    """
    run_file = checkpoint_dir / RUN_FILE
    earlier = read_manifest(run_file, config.fingerprint, tell=tell)
    if not earlier or not has_its_checkpoint(checkpoint_dir, earlier, tell):
        return None
    if earlier != earlier | of_this_run:
        # What the next stages do with a complete training, and for which run, may be another thing this time.
        write_json(run_file, earlier | of_this_run)
    log(f"This training is complete in {checkpoint_dir}: used again")
    _begin_tracking(checkpoint_dir)
    return earlier["trainjob_name"]


def _begin_tracking(checkpoint_dir: Path) -> None:
    """Makes the MLflow run, where one is wanted: the next stages, which add to it, run side by side."""
    with tracked_run(read_run(checkpoint_dir)):
        pass


def _workflow_name() -> str:
    """Name of the run's Workflow, the pipeline's with a short id, by the name that Argo gave this pod; else empty.

    KFP's placeholder for it (PIPELINE_JOB_RESOURCE_NAME_PLACEHOLDER) makes kfp.local fail.
    """
    pod = re.fullmatch(r"(.+?)-(retry-)?system-container-.+", os.environ.get("KFP_POD_NAME", ""))
    return pod[1] if pod else ""


class _Training(Protocol):
    """One of the two engines."""

    name: str

    def owning(self, file: Path) -> AbstractContextManager[Ownership]: ...

    def train(self, ownership: Ownership, log_path: Path, before_creation: Callable[[], bool]) -> None: ...


def _cluster_training(config: TrainingConfig, task: Task) -> ClusterTraining:
    if not is_configured():
        raise InputError(f"there is no cluster to train on, and {LAUNCHER_VARIABLE} is not set. Two ways: {_TWO_WAYS}")
    cluster = connect()
    log(
        f"Training {config.about['base_model']} on {config.about['samples']:,} samples, on the cluster {cluster.url}; "
        f"full log in {Path(config.osft['ckpt_output_dir'], TRAINING_LOG)}"
    )
    return ClusterTraining(cluster, config, task)
