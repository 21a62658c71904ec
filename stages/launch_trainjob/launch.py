"""launch_trainjob: runs the training, as a TrainJob on a cluster or in a process of this computer."""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.atomic import writable_folder, write_json
from kfp_osft.shared.files.manifests import read_manifest, write_manifest
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.shared.training.run_file import RUN_FILE, TRAINING_LOG
from kfp_osft.stages.launch_trainjob.kubernetes.connection import connect, is_configured
from kfp_osft.stages.launch_trainjob.kubernetes.engine import Task, train_on_cluster
from kfp_osft.stages.launch_trainjob.local_engine import train_locally
from kfp_osft.stages.launch_trainjob.train_result import COMPLETE_FILE, STATES_FOLDER, saved_states

_LOCAL = "local"
_TWO_WAYS = (
    "on a cluster, give the stage KUBERNETES_SERVER_URL and KUBERNETES_AUTH_TOKEN, or a service account that "
    "may create TrainJobs; on this computer, set the environment variable OSFT_LAUNCHER=local"
)


class Launched(NamedTuple):
    """Where the checkpoints are, and what the job is called."""

    checkpoint_dir: str
    trainjob_name: str


def launch(
    training_config: str, pvc_path: str, task_config: Any, run_name: str = "", run_id: str = "", task_name: str = ""
) -> Launched:
    """Trains and returns when the training is complete; a training that is complete already is not repeated.

    Args:
        training_config: what preprocess returned.
        pvc_path: the workspace that preprocess wrote to.
        task_config: KFP's TaskConfig of this task, for the pods of the TrainJob.
        run_name, run_id: of the pipeline run, for the TrainJob's name; a recurring run has none, and its Workflow's is
            taken.
        task_name: of this task in the run.

    Raises:
        InputError: a configuration that is not preprocess's, data that is gone, neither a cluster nor
            OSFT_LAUNCHER=local; what train_on_cluster raises.
        TrainingError: the training failed; with its last lines.
    """
    config = TrainingConfig.from_json(training_config)
    launcher = os.environ.get("OSFT_LAUNCHER", "")
    if launcher not in ("", _LOCAL):
        raise InputError(f"OSFT_LAUNCHER={launcher} is not allowed; allowed: {_LOCAL}, or not set for a cluster")
    use_workspace(writable_folder("pvc_path", pvc_path))
    checkpoint_dir = Path(config.osft["ckpt_output_dir"])
    if not Path(config.osft["data_path"]).is_file():
        raise InputError(
            f"the data that preprocess wrote is not at {config.osft['data_path']}; "
            "this stage must see the same workspace"
        )
    run_file = checkpoint_dir / RUN_FILE
    earlier = read_manifest(run_file, config.fingerprint)
    if earlier:
        if earlier.get("data") != config.data:
            # What the next stages do with a complete training may be another thing this time.
            write_json(run_file, {**earlier, "data": config.data})
        log(f"This training is complete in {checkpoint_dir}: used again")
        return Launched(str(checkpoint_dir), earlier["trainjob_name"])

    started = time.monotonic()
    train = _train_locally if launcher == _LOCAL else _train_on_cluster
    name = train(config, Task(run_name or _workflow_name(), run_id, task_name, pvc_path, task_config), checkpoint_dir)
    seconds = round(time.monotonic() - started, 1)
    # Weights and the optimizer's moments: several times the model's size.
    shutil.rmtree(checkpoint_dir / STATES_FOLDER, ignore_errors=True)
    write_manifest(
        run_file,
        config.fingerprint,
        trainjob_name=name,
        seconds=seconds,
        osft=config.osft,
        trainjob=config.trainjob,
        data=config.data,
        env=config.env,
        about=config.about,
    )
    log(f"Training complete after {seconds:.0f} s: {checkpoint_dir}")
    return Launched(str(checkpoint_dir), name)


def _workflow_name() -> str:
    """Name of the run's Workflow, the pipeline's with a short id, by the name that Argo gave this pod; else empty.

    KFP's placeholder for it (PIPELINE_JOB_RESOURCE_NAME_PLACEHOLDER) makes kfp.local fail.
    """
    pod = re.fullmatch(r"(.+?)-(retry-)?system-container-.+", os.environ.get("KFP_POD_NAME", ""))
    return pod[1] if pod else ""


def _train_locally(config: TrainingConfig, task: Task, checkpoint_dir: Path) -> str:
    _clear_unfinished(checkpoint_dir, resumable=False)
    if config.trainjob["num_workers"] > 1:
        log(
            f"Warning: training_resource_num_workers={config.trainjob['num_workers']} has no effect on this computer: "
            "one worker trains"
        )
    log(
        f"Training {config.about['base_model']} on {config.about['samples']:,} samples, on this computer; "
        f"full log in {checkpoint_dir / TRAINING_LOG}"
    )
    train_locally(
        {"osft": {**config.osft, "nproc_per_node": config.trainjob["procs_per_worker"]}, "device": "auto"},
        config.env,
        checkpoint_dir / TRAINING_LOG,
    )
    return f"{_LOCAL}-{checkpoint_dir.name}"


def _train_on_cluster(config: TrainingConfig, task: Task, checkpoint_dir: Path) -> str:
    if not is_configured():
        raise InputError(f"there is no cluster to train on, and OSFT_LAUNCHER is not set. Two ways: {_TWO_WAYS}")
    cluster = connect()
    log(
        f"Training {config.about['base_model']} on {config.about['samples']:,} samples, on the cluster {cluster.url}; "
        f"full log in {checkpoint_dir / TRAINING_LOG}"
    )
    return train_on_cluster(
        cluster,
        config,
        task,
        checkpoint_dir / TRAINING_LOG,
        before_creation=lambda: _clear_unfinished(checkpoint_dir, resumable=True),
    )


def _clear_unfinished(checkpoint_dir: Path, resumable: bool) -> None:
    """Takes away what an interrupted attempt left: mini-trainer would append to its metrics, and nothing may take
    its checkpoints for those of this training. The data of preprocess stays, and so does, where the engine can
    resume, a state that mini-trainer saved when it was interrupted, with the metrics up to it."""
    # Of no training but the one that will write it.
    (checkpoint_dir / COMPLETE_FILE).unlink(missing_ok=True)
    if resumable and saved_states(str(checkpoint_dir)):
        log("The training goes on from the state that was saved when it was interrupted")
        return
    for leftover in (*checkpoint_dir.glob("training_*"), checkpoint_dir / "hf_format", checkpoint_dir / STATES_FOLDER):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
