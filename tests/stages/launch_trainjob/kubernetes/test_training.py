"""TrainJobs whose command really runs, from the stored manifest alone, on a cluster of the tests'."""

import json
import threading
from pathlib import Path

import psutil
import pytest

from conftest import TINY_TRAINING
from fakes.kubernetes import Cluster, Job, run_as_processes
from helpers.launching import in_pod_of
from helpers.training_configs import workspace_task_config
from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.stages.launch_trainjob.launch import launch
from kfp_osft.stages.preprocess.training_data import preprocess_dataset

CPU = {"training_resource_gpu_per_worker": 0, **TINY_TRAINING}


@pytest.fixture
def train(monkeypatch, tmp_path, tiny_model, chat_rows):
    """Preprocesses and launches; gives the launch's result and the cluster as it was left."""

    def run(cluster: Cluster, rows: Path = chat_rows, **training):
        for name in ("OSFT_LAUNCHER", "KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        in_pod_of(cluster, monkeypatch)
        prepared = preprocess_dataset(
            str(rows), str(tmp_path), {"training_base_model": str(tiny_model), **CPU, **training}
        )
        model = {"name": "model", "persistentVolumeClaim": {"claimName": "model"}}
        task = workspace_task_config(
            tmp_path, volumes=[model], volume_mounts=[{"name": "model", "mountPath": str(tiny_model), "readOnly": True}]
        )
        return launch(prepared.training_config, str(tmp_path), task, "run", "1", "launch-trainjob")

    run.claims = {"run-workspace": tmp_path, "model": tiny_model}
    return run


def steps_of(checkpoint_dir: Path, rank: int = 0) -> list[dict]:
    lines = (checkpoint_dir / f"training_metrics_{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "workers"), [("2.1", 1), ("2.3", 2)])
def test_the_manifest_alone_trains_the_tiny_model(train, capsys, trainer, workers):
    life = run_as_processes(claims=train.claims)
    with Cluster(trainer=trainer, life=life, patience=300) as cluster:
        # Two nodes on one computer find each other on its loopback.
        launched = train(
            cluster,
            training_resource_num_workers=workers,
            training_envs=f"GLOO_SOCKET_IFNAME=lo,OMP_NUM_THREADS={2 // workers}",
        )
        assert [job["metadata"]["name"] for job in cluster.trainjobs] == [launched.trainjob_name]
    checkpoint_dir = Path(launched.checkpoint_dir)
    steps = steps_of(checkpoint_dir)
    assert [step["step"] for step in steps] == list(range(1, 9))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert (checkpoint_dir / "hf_format" / "samples_64.0" / "model.safetensors").is_file()
    assert json.loads((checkpoint_dir / "osft_run.json").read_text())["trainjob_name"] == launched.trainjob_name
    lines = capsys.readouterr().out.splitlines()
    # Of quick steps one a second is told.
    told = [line.split(" |")[0] for line in lines if line.startswith("step")]
    assert (told[0], told[-1]) == ("step 1/8", "step 8/8")
    assert f"Running: {workers} of {workers} node{'s' if workers > 1 else ''}" in lines
    assert "step" in (checkpoint_dir / "training.log").read_text()


@pytest.mark.slow
def test_an_interrupted_training_of_one_epoch_goes_on_where_it_was(train, tmp_path, chat_rows, capsys):
    # Long enough to be met in its midst: a step of the tiny model takes a tenth of a second.
    rows = tmp_path / "rows.jsonl"
    rows.write_text(chat_rows.read_text() * 8)

    def preempt(job: Job) -> None:
        """Takes the process away in the midst of the training, as an eviction does: with SIGTERM."""
        metrics = tmp_path.glob("checkpoints/*/training_metrics_0.jsonl")
        while not (written := next(metrics, None)) or len(written.read_text().splitlines()) < 3:
            job.sleep(0.05)
            metrics = tmp_path.glob("checkpoints/*/training_metrics_0.jsonl")
        (script,) = [
            process for process in psutil.Process().children(recursive=True) if process.cmdline()[1:2] == ["-c"]
        ]
        script.terminate()

    def life(job: Job) -> None:
        threading.Thread(target=preempt, args=[job], daemon=True).start()
        run_as_processes(claims=train.claims, backoff_limit=1)(job)

    with Cluster(life=life, patience=300) as cluster:
        launched = train(cluster, rows, training_num_epochs=1, training_effective_batch_size=2)
        (pod,) = cluster.pods
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 1
    checkpoint_dir = Path(launched.checkpoint_dir)
    assert [step["step"] for step in steps_of(checkpoint_dir)] == list(range(1, 129))
    # The state is several times the model's size, and of no more use.
    assert not (checkpoint_dir / "full_state_checkpoints").exists()
    assert "the training was interrupted; its state is saved in" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_that_fails_on_the_cluster_says_why_in_the_trainers_words(train):
    # The failed pod stays for longer than the launcher's polls are apart.
    with (
        Cluster(life=run_as_processes(claims=train.claims, linger=8), patience=300) as cluster,
        pytest.raises(TrainingError, match="the training is lost: the loss of step . is nan") as error,
    ):
        train(cluster, training_learning_rate=1e30)
    assert "every retry would fail in the same way" in str(error.value)
