"""A launcher in a hurry, as a pod of a test cluster."""

import dataclasses
import functools
from pathlib import Path

import pytest

from fakes.kubernetes import Cluster
from helpers.launching import TIMING, in_pod_of, train
from helpers.training_configs import training_config, workspace_task_config
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.kubernetes.connection import connect
from kfp_osft.stages.launch_trainjob.kubernetes.engine import Task
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring import monitor
from kfp_osft.stages.launch_trainjob.trainer_output import TrainerOutput


@pytest.fixture(autouse=True)
def outside_of_any_cluster(monkeypatch):
    for name in (
        "KUBERNETES_SERVER_URL",
        "KUBERNETES_AUTH_TOKEN",
        "KUBERNETES_NAMESPACE",
        "KUBERNETES_SERVICE_HOST",
        "KFP_POD_NAME",
        "KFP_POD_UID",
        "HF_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """Trains on a test cluster as a pod of it would; returns the TrainJob's name."""

    def run(cluster: Cluster, config=None, task=None, before_creation=lambda: None, run_name="run", **timing):
        in_pod_of(cluster, monkeypatch)
        # Each step, however quick.
        monkeypatch.setattr(monitor, "TrainerOutput", functools.partial(TrainerOutput, seconds_between_steps=0))
        connection = connect()
        connection.backoff, connection.starting = 0.01, 0.2
        return train(
            connection,
            in_workspace(config or training_config(), tmp_path),
            Task(run_name, run_name, "launch-trainjob", str(tmp_path), task or workspace_task_config(tmp_path)),
            tmp_path / "training.log",
            before_creation,
            dataclasses.replace(TIMING, **timing),
        )

    return run


def in_workspace(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The config with this folder in the place of its workspace."""
    return TrainingConfig.from_json(config.to_json().replace("/kfp-workspace", str(folder)))
