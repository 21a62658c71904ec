import contextlib
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import TINY_TRAINING
from fakes.kubernetes import Cluster, Job
from helpers.training_configs import with_data
from kfp_osft.shared.files.atomic import write_json
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages import launch_trainjob
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import trainjob_name
from kfp_osft.stages.preprocess.training_data import preprocess_dataset
from pytest_kfp_local import KfpLocal


@pytest.fixture
def training_config(tmp_path: Path, tiny_model: Path, chat_rows: Path) -> str:
    training = {"training_base_model": str(tiny_model), **TINY_TRAINING}
    return preprocess_dataset(str(chat_rows), str(tmp_path / "pvc"), training).training_config


@pytest.mark.slow
def test_the_local_engine_trains_and_a_second_launch_uses_it_again(
    kfp_local: KfpLocal, tmp_path: Path, training_config: str
):
    pvc = tmp_path / "pvc"

    first = kfp_local.run(launch_trainjob, training_config=training_config, pvc_path=str(pvc))

    outputs = first.outputs
    checkpoint_dir = Path(outputs["checkpoint_dir"])
    assert checkpoint_dir == Path(json.loads(training_config)["osft"]["ckpt_output_dir"])
    assert outputs["trainjob_name"] == f"local-{checkpoint_dir.name}"
    steps = [json.loads(line) for line in (checkpoint_dir / "training_metrics_0.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 9))
    assert (checkpoint_dir / "hf_format" / "samples_64.0" / "model.safetensors").is_file()
    assert "step 8/8 | epoch 2 | loss " in first.log

    # What only later stages read may have changed.
    config = json.loads(training_config)
    config["data"]["export_broken_model"] = True
    second = kfp_local.run(launch_trainjob, training_config=json.dumps(config), pvc_path=str(pvc))

    assert second.outputs == outputs
    assert json.loads((checkpoint_dir / "osft_run.json").read_text())["data"]["export_broken_model"] is True
    assert "is complete" in second.log and "step 1/8" not in second.log


@pytest.mark.slow
def test_what_an_interrupted_attempt_left_is_not_mixed_with_the_new_one(
    kfp_local: KfpLocal, tmp_path: Path, training_config: str
):
    checkpoint_dir = Path(json.loads(training_config)["osft"]["ckpt_output_dir"])
    stale = checkpoint_dir / "hf_format" / "samples_999.0"
    stale.mkdir(parents=True)
    (checkpoint_dir / "training_metrics_0.jsonl").write_text('{"step": 77, "loss": 1.0}\n')

    kfp_local.run(launch_trainjob, training_config=training_config, pvc_path=str(tmp_path / "pvc"))

    assert not stale.exists()
    first_line = (checkpoint_dir / "training_metrics_0.jsonl").read_text().splitlines()[0]
    assert json.loads(first_line)["step"] == 1


def test_without_a_cluster_and_without_the_local_launcher_it_says_the_two_ways(
    errors_of, monkeypatch, tmp_path: Path, training_config: str
):
    monkeypatch.delenv("OSFT_LAUNCHER")

    (error,) = errors_of(launch_trainjob, training_config=training_config, pvc_path=str(tmp_path / "pvc"))

    assert "KUBERNETES_SERVER_URL and KUBERNETES_AUTH_TOKEN" in error
    assert "OSFT_LAUNCHER=local" in error


def test_a_launcher_that_is_none_is_refused(errors_of, monkeypatch, tmp_path: Path, training_config: str):
    monkeypatch.setenv("OSFT_LAUNCHER", "laptop")

    (error,) = errors_of(launch_trainjob, training_config=training_config, pvc_path=str(tmp_path / "pvc"))

    assert error == "OSFT_LAUNCHER=laptop is not allowed; allowed: local, or unset for a cluster"


def test_a_training_config_that_is_none_is_refused(errors_of, tmp_path: Path):
    (error,) = errors_of(launch_trainjob, training_config='{"a": 1}', pvc_path=str(tmp_path))

    assert error.startswith("training_config is not what preprocess returns")


def test_a_workspace_without_the_data_of_preprocess_is_an_error(errors_of, tmp_path: Path, training_config: str):
    data_path = Path(json.loads(training_config)["osft"]["data_path"])
    data_path.unlink()

    (error,) = errors_of(launch_trainjob, training_config=training_config, pvc_path=str(tmp_path / "pvc"))

    assert str(data_path) in error


def test_data_that_is_not_what_it_was_given_is_an_error(tmp_path: Path):
    config = with_data(tmp_path)
    write_json(Path(config.osft["data_output_dir"], "manifest.json"), {"made_from": {"dataset": ["e" * 64]}})

    with pytest.raises(InputError) as error:
        importlib.import_module("kfp_osft.stages.launch_trainjob.launch").launch(config.to_json(), str(tmp_path), None)

    assert str(error.value) == (
        f"the data in {config.osft['data_output_dir']} is not whole, or not what training_config was made for; run "
        "preprocess again"
    )


def test_on_a_cluster_the_stage_creates_the_trainjob_with_the_tasks_volumes(
    kfp_local: KfpLocal, monkeypatch, tmp_path: Path, training_config: str
):
    model_path = json.loads(training_config)["osft"]["model_path"]
    mounts = {"workspace": tmp_path / "pvc", "model": Path(model_path)}

    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("kfp-osft: a line of the training")
        job.wait_for_log_reader()
        job.complete()

    monkeypatch.delenv("OSFT_LAUNCHER")
    with Cluster(life=life, patience=60) as cluster:
        # From outside the cluster: its address and a token; its certificate is one of the system's.
        monkeypatch.setenv("KUBERNETES_SERVER_URL", cluster.url)
        monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", cluster.token)
        monkeypatch.setenv("KUBERNETES_NAMESPACE", cluster.namespace)
        monkeypatch.setenv("SSL_CERT_FILE", str(cluster.ca_file))
        result = kfp_local.run(
            launch_trainjob,
            training_config=training_config,
            pvc_path=str(tmp_path / "pvc"),
            run_name="My run",
            run_id="1",
            task_name="launch-trainjob",
            kubernetes_config={
                "volumes": [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in mounts],
                "volumeMounts": [{"name": name, "mountPath": str(path)} for name, path in mounts.items()],
            },
        )
        (trainjob,) = cluster.trainjobs
    assert trainjob["metadata"]["name"] == result.outputs["trainjob_name"]
    assert result.outputs["trainjob_name"].startswith("my-run-")
    assert "a line of the training" in result.log
    assert cluster.token not in result.log


@pytest.mark.parametrize(
    ("run_name", "pod", "begins"),
    [
        ("My run", "nightly-l69pf-system-container-impl-1", "my-run-"),
        # As a recurring run's.
        ("", "nightly-l69pf-system-container-impl-2277833670", "nightly-l69pf-"),
        ("", "nightly-l69pf-retry-system-container-impl-2277833670", "nightly-l69pf-"),
        ("", "somebodys-pod", "osft-"),
        ("", "", "osft-"),
    ],
)
def test_a_trainjob_is_named_by_its_run_or_by_the_workflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, training_config: str, run_name: str, pod: str, begins: str
):
    # The package's attribute of that name is the component.
    module = importlib.import_module("kfp_osft.stages.launch_trainjob.launch")
    monkeypatch.setattr(module, "is_configured", lambda: True)
    monkeypatch.setattr(module, "connect", lambda: SimpleNamespace(url=""))
    monkeypatch.setattr(
        module,
        "ClusterTraining",
        lambda cluster, config, task: SimpleNamespace(
            name=trainjob_name(task.run_name, task.run_id, task.task_name, {}),
            owning=lambda file: contextlib.nullcontext(),
            train=lambda *_: None,
        ),
    )
    monkeypatch.setenv("KFP_POD_NAME", pod)

    launched = module.launch(training_config, str(tmp_path / "pvc"), None, run_name, "57577441", "launch-trainjob")

    assert launched.trainjob_name.startswith(begins)
