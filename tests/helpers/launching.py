"""What the tests of the Kubernetes engine share: a launcher in a hurry, and what it asked and told."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.kubernetes import Cluster
from helpers.training_configs import training_config
from kfp_osft.shared.files.ownership import OWNER_FILE, Pace
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.kubernetes import client, connection
from kfp_osft.stages.launch_trainjob.kubernetes.engine import ClusterTraining, Task
from kfp_osft.stages.launch_trainjob.kubernetes.timing import Timing

TIMING = Timing(
    poll=0.03,
    hurry=0.02,
    look=0.3,
    creation=2,
    trouble=0.3,
    refused=0.5,
    unreachable=5,
    deletion=2,
    doubt=0.5,
    recovery=0.1,
    log=2,
    pace=Pace(beat=0.1, silence=0.6),
)
#: Training parameters' minutes that a test can wait for.
MOMENT = 0.3 / 60


def in_pod_of(cluster: Cluster, monkeypatch) -> None:
    """This process is a pod of the cluster, to whom it looks."""
    host, port = cluster.url.removeprefix("https://").split(":")
    monkeypatch.setattr(connection, "SERVICE_ACCOUNT", cluster.service_account)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)


def train(
    api: client.Cluster,
    config: TrainingConfig,
    task: Task,
    log_path: Path,
    before_creation: Callable[[], None] = lambda: None,
    timing: Timing = TIMING,
) -> str:
    """Trains as launch() does on a cluster; returns the TrainJob's name."""
    training = ClusterTraining(api, config, task, timing)
    with training.owning(Path(config.osft["ckpt_output_dir"], OWNER_FILE)) as ownership:
        training.train(ownership, log_path, before_creation)
    return training.name


def as_the_launcher(cluster: Cluster, monkeypatch) -> None:
    """This process is the launcher's own pod, which belongs to the run's Workflow."""
    monkeypatch.setenv("KFP_POD_NAME", cluster.launcher_pod)
    monkeypatch.setenv("KFP_POD_UID", cluster.launcher_uid)


def hurried(config: TrainingConfig | None = None, **minutes: float) -> TrainingConfig:
    """The config with deadlines of parts of a minute."""
    config = config or training_config()
    return dataclasses.replace(config, trainjob={**config.trainjob, **minutes})


def verbs(cluster: Cluster, resource: str = "trainjobs") -> list[str]:
    """What was asked, without repetitions in a row."""
    asked = [request.verb for request in cluster.asked(resource=resource)]
    return [verb for index, verb in enumerate(asked) if index == 0 or asked[index - 1] != verb]


def step(number: int, total: int = 4) -> list[str]:
    """A step as mini-trainer prints it: coloured JSON over many lines."""
    fields: dict[str, Any] = {
        "step": number,
        "epoch": 0,
        "steps_per_epoch": total,
        "loss": 2 - number / 10,
        "lr": 1e-4,
        "tokens_per_second": 100.0,
        "time_per_batch": 1.0,
    }
    return ["{", *(f'  "{name}": {value},' for name, value in fields.items()), "}"]


def told(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()
