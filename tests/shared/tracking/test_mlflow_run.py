"""One run for each pipeline run: without MLflow, and on a real MLflow server with the client in an environment of its
own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.s3 import S3Server
from helpers.interpreters import run
from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.tracking import mlflow_run
from kfp_osft.shared.tracking.mlflow_run import tracked_run

MLFLOW = "mlflow==3.17.2"
PIPELINE_RUN = {"id": "1b6b5d7e-0c2f", "name": "weekly"}
# What the stages after the training do, and a second collect_metrics as KFP's retry makes one.
_STAGES = """
import sys
from types import SimpleNamespace
from kfp_osft.stages.collect_metrics.collection import collect
from kfp_osft.stages.render_loss_chart.rendering import render
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.evaluate_model.evaluation import evaluate_model

folder, workspace = sys.argv[1:]
artifact = lambda name: SimpleNamespace(path=f"{workspace}/{name}", uri=f"s3://bucket/{name}", metadata={})
metrics = SimpleNamespace(log_metric=lambda name, value: None, metadata={})
collect(folder, metrics, artifact("steps"), artifact("log"))
export_model(folder, workspace, artifact("model"))
evaluate_model(workspace, artifact("report"), metrics, folder, export_uri="s3://models/tracked")
render(f"{folder}/metrics.jsonl", f"{workspace}/chart")
collect(folder, metrics, artifact("steps"), artifact("log"))
"""


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(mlflow_run, "log", said.append)
    return said


def test_without_a_tracking_uri_nothing_is_logged_and_nothing_said(lines: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    with tracked_run({"fingerprint": "f"}) as tracked:
        assert tracked is None

    assert lines == []


def test_without_mlflow_a_run_goes_on_and_says_so(lines: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    monkeypatch.setattr(mlflow_run, "is_installed", lambda: False)

    with tracked_run({"fingerprint": "f"}) as tracked:
        assert tracked is None

    assert lines == [
        "Warning: MLFLOW_TRACKING_URI is set, but MLflow is not installed here, so that nothing is logged there"
    ]


class _Server:
    """A real MLflow server; its REST API says what it holds."""

    def __init__(self, python: Path, url: str) -> None:
        self.python, self.url = python, url

    def post(self, path: str, **content: Any) -> dict[str, Any]:
        return self._ask(
            urllib.request.Request(
                f"{self.url}/api/2.0/mlflow/{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
            )
        )

    def get(self, path: str) -> dict[str, Any]:
        return self._ask(urllib.request.Request(f"{self.url}/api/2.0/mlflow/{path}"))

    def _ask(self, request: urllib.request.Request) -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    folder = tmp_path_factory.mktemp("mlflow")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    own = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    seen = [path for path in sys.path if Path(path).name == "site-packages" or Path(path, "kfp_osft").exists()]
    Path(own, "of_the_tests.pth").write_text("\n".join(seen))
    run(python, "-m", "pip", "install", "--quiet", MLFLOW, cwd=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "artifacts"),
        ],
        cwd=folder,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health")
        yield _Server(python, f"http://127.0.0.1:{port}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, "the MLflow server did not start"
            time.sleep(0.5)
        else:
            return


def _trained(folder: Path, model: Path) -> Path:
    """A training of a pipeline run, validated at its fourth step."""
    make_trained_folder(folder, model)
    file = folder / "osft_run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pipeline_run": PIPELINE_RUN}))
    steps = [json.loads(line) for line in (folder / "training_metrics_0.jsonl").read_text().splitlines()]
    steps[3] |= {"val_loss": 4.5, "val_num_samples": 8}
    (folder / "training_metrics_0.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return folder


@pytest.mark.slow
def test_the_stages_of_a_run_log_one_run_with_parameters_curves_chart_evaluation_and_the_models_place(
    server: _Server, store: S3Server, tiny_model: Path, tmp_path: Path
):
    folder = _trained(tmp_path / "checkpoints" / "abc", tiny_model)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.url, "MLFLOW_EXPERIMENT_NAME": "osft trials"}

    printed = run(server.python, "-c", _STAGES, folder, tmp_path, cwd=tmp_path, env=environment)

    assert "Warning: not" not in printed
    experiment = server.get("experiments/get-by-name?experiment_name=osft%20trials")["experiment"]["experiment_id"]
    (found,) = server.post("runs/search", experiment_ids=[experiment])["runs"]
    info, data = found["info"], found["data"]
    assert (info["run_name"], info["status"]) == ("weekly", "FINISHED")
    tags = {tag["key"]: tag["value"] for tag in data["tags"]}
    assert tags["kfp_osft.pipeline_run"] == PIPELINE_RUN["id"]
    assert tags["kfp_osft.artifact_path"] == "s3://bucket/model"
    assert tags["kfp_osft.pvc_model_dir"] == str(tmp_path / "final_model")
    assert (tags["kfp_osft.passed"], tags["kfp_osft.export_uri"]) == ("true", "s3://models/tracked")
    parameters = {item["key"]: item["value"] for item in data["params"]}
    assert parameters["training_unfreeze_rank_ratio"] == "0.25" and parameters["dataset"] == "rows.jsonl"
    assert parameters["base_model"] == tiny_model.name
    metrics = {item["key"]: item["value"] for item in data["metrics"]}
    assert metrics["final_loss"] == metrics["loss"] == 4.0 and metrics["validation_loss"] == 4.5
    assert metrics["general_text_loss_after"] > 0 and metrics["passed"] == 1

    def curve(name: str) -> list[tuple[int, float]]:
        points = server.get(f"metrics/get-history?run_id={info['run_id']}&metric_key={name}")["metrics"]
        return [(int(point.get("step", 0)), point["value"]) for point in points]

    # Each step once, although the stage ran twice.
    assert curve("loss") == [(step, 6.0 - step / 4) for step in range(1, 9)]
    assert curve("val_loss") == [(4, 4.5)]
    files = {file["path"] for file in server.get(f"artifacts/list?run_id={info['run_id']}")["files"]}
    assert files == {"metrics.jsonl", "loss_chart.html", "evaluation.html"}


@pytest.mark.slow
def test_a_server_that_refuses_is_a_warning_and_the_stages_succeed(
    server: _Server, store: S3Server, tiny_model: Path, tmp_path: Path
):
    folder = _trained(tmp_path / "checkpoints" / "abc", tiny_model)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.url, "MLFLOW_EXPERIMENT_ID": "404"}

    printed = run(server.python, "-c", _STAGES, folder, tmp_path, cwd=tmp_path, env=environment)

    assert "Warning: nothing is logged to MLflow" in printed
    assert (tmp_path / "final_model" / "config.json").is_file()
