"""The progress of a training, told to receivers that are as strict as the real ones."""

import http.server
import json
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trustme

from kfp_osft.stages.launch_trainjob import train_progress
from kfp_osft.stages.launch_trainjob.train_progress import Progress, ProgressReport


def step(number, **fields):
    return {
        "step": number,
        "epoch": (number - 1) // 4,
        "steps_per_epoch": 4,
        "loss": 2 - number / 10,
        "lr": 1e-4,
        "grad_norm": 1.5,
        "tokens_per_second": 100.0,
        "samples_per_second": 3.0,
        "time_per_batch": 2.0,
        "val_loss": None,
        **fields,
    }


@pytest.fixture
def metrics(tmp_path):
    """Writes steps as mini-trainer does, and gives the Progress of a training of two epochs of four steps."""
    file = tmp_path / "training_metrics_0.jsonl"

    def write(*steps):
        with file.open("a") as opened:
            opened.writelines(json.dumps(one) + "\n" for one in steps)

    write.file = file
    write.progress = lambda read_from=0: Progress(file, read_from, 2)
    return write


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


# The Trainer of Red Hat: pkg/rhai/progression of opendatahub-io/trainer 3.5.0, as Go's encoding/json decodes it.

INTEGERS = ("progressPercentage", "estimatedRemainingSeconds", "currentStep", "totalSteps", "totalEpochs")


def decoded(text: str) -> dict:
    """The TrainerStatus, or an error where Go loses the poll: a float where an int belongs, NaN (on 3.4)."""

    def refuse(constant: str) -> None:
        raise ValueError(f"invalid character {constant}")

    status = json.loads(text, parse_constant=refuse)
    for name in INTEGERS:
        value = status.get(name)
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"cannot unmarshal number {value} into Go struct field TrainerStatus.{name} of type int")
    if not isinstance(status.get("currentEpoch", 0.0), (int, float)):
        raise ValueError("currentEpoch")
    for name in ("trainMetrics", "evalMetrics"):
        if not isinstance(status.get(name) or {}, dict):
            raise ValueError(f"cannot unmarshal into map[string]interface: {name}")
    if not 0 <= status["progressPercentage"] <= 100:
        raise ValueError("dropped by cleanInvalidMetrics")
    return status


def poll(port: int, path: str = "/metrics") -> dict:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
        assert answer.status == 200
        return decoded(answer.read().decode())


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_poll_shows_step_loss_and_time_left_from_before_the_first_step_to_the_last(metrics, port, tmp_path):
    report = ProgressReport(metrics.progress(), port, termination_log=str(tmp_path / "none"))
    assert poll(port)["progressPercentage"] == 0
    metrics(step(1, time_per_batch=60.0), step(2))
    until(lambda: poll(port)["currentStep"] == 2)
    status = poll(port)
    assert (status["totalSteps"], status["totalEpochs"], status["currentEpoch"]) == (8, 2, 0.5)
    assert status["progressPercentage"] == 25
    # The first step pays for the start, and does not count.
    assert status["estimatedRemainingSeconds"] == 12
    assert status["trainMetrics"] == {
        "loss": 1.8,
        "learning_rate": 1e-4,
        "grad_norm": 1.5,
        "tokens_per_second": 100.0,
        "samples_per_second": 3.0,
    }
    report.end(False)


def test_polls_that_come_in_bursts_are_all_answered(metrics, port, tmp_path):
    metrics(step(1))
    report = ProgressReport(metrics.progress(), port, termination_log=str(tmp_path / "none"))
    answers: list[dict] = []
    bursts = [threading.Thread(target=lambda: answers.append(poll(port))) for _ in range(5)]
    for thread in bursts:
        thread.start()
    for thread in bursts:
        thread.join()
    assert [one["currentStep"] for one in answers] == [1] * 5
    report.end(False)


def test_until_the_end_there_is_something_left_and_at_the_end_nothing(metrics, port, tmp_path):
    # After a remaining time of 0 the Trainer updates nothing any more.
    message = tmp_path / "termination-log"
    message.touch()
    metrics(*(step(number) for number in range(1, 9)))
    report = ProgressReport(metrics.progress(), port, termination_log=str(message))
    status = poll(port)
    assert (status["progressPercentage"], status["estimatedRemainingSeconds"]) == (99, 1)
    report.end(True)
    final = decoded(message.read_text())
    assert (final["progressPercentage"], final["estimatedRemainingSeconds"]) == (100, 0)
    # Else the dashboard says that it stopped early.
    assert final["currentStep"] == final["totalSteps"] == 8
    assert len(message.read_bytes()) < 4096


def test_a_failure_leaves_how_far_it_was(metrics, port, tmp_path):
    message = tmp_path / "termination-log"
    message.touch()
    metrics(step(1), step(2), step(3))
    ProgressReport(metrics.progress(), port, termination_log=str(message)).end(False)
    final = decoded(message.read_text())
    assert (final["progressPercentage"], final["currentStep"], final["totalSteps"]) == (37, 3, 8)


def test_values_that_are_not_finite_and_half_a_line_lose_no_poll(metrics):
    metrics(step(1, loss=float("nan"), grad_norm=float("inf"), val_loss=1.25))
    with metrics.file.open("a") as file:
        file.write('{"step": 2, "steps_pe')
    status = decoded(json.dumps(metrics.progress().status()))
    assert "loss" not in status["trainMetrics"] and "grad_norm" not in status["trainMetrics"]
    assert status["currentStep"] == 1 and status["evalMetrics"] == {"loss": 1.25}


@pytest.mark.parametrize("steps_per_epoch", [4.0, 4])
def test_whole_numbers_are_whole_also_where_the_trainer_writes_floats(metrics, steps_per_epoch):
    metrics(step(2.0, steps_per_epoch=steps_per_epoch))
    assert decoded(json.dumps(metrics.progress().status()))["totalSteps"] == 8


def test_what_an_earlier_training_wrote_does_not_count(metrics):
    metrics(step(7))
    assert metrics.progress(metrics.file.stat().st_size).status()["currentStep"] == 0


def test_only_metrics_are_served_and_a_port_that_is_taken_is_said(metrics, port, tmp_path, capsys):
    report = ProgressReport(metrics.progress(), port, termination_log=str(tmp_path / "none"))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        poll(port, "/secrets")
    second = ProgressReport(metrics.progress(), port, termination_log=str(tmp_path / "none"))
    assert f"no progress is shown: port {port} cannot be used" in capsys.readouterr().out
    report.end(False)
    second.end(False)


def test_without_a_port_there_is_no_server_and_no_message(metrics, tmp_path):
    message = tmp_path / "termination-log"
    message.touch()
    ProgressReport(metrics.progress(), 0, termination_log=str(message)).end(True)
    assert not message.read_text()


def test_a_node_that_is_not_the_first_leaves_the_message_only(metrics, port, tmp_path):
    message = tmp_path / "termination-log"
    message.touch()
    metrics(step(1))
    report = ProgressReport(metrics.progress(), port, is_primary=False, termination_log=str(message))
    with pytest.raises(urllib.error.URLError, match="refused"):
        poll(port)
    report.end(True)
    assert decoded(message.read_text())["currentStep"] == 1


# Upstream's status server: pkg/statusserver of kubeflow/trainer 2.3.0.

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class StatusServer:
    """Takes a POST as the real one: 403 for another token, 413 above 64 KiB, 422 for what its schema does not allow."""

    def __init__(self, folder: Path) -> None:
        self.posts: list[dict] = []
        self.answers: list[int] = []
        self.token = folder / "token"
        self.token.write_text("first\n")
        authority = trustme.CA()
        self.ca_file = folder / "ca.crt"
        authority.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = server.code(self.headers, body)
                server.answers.append(code)
                if code == 200:
                    server.posts.append(json.loads(body)["trainerStatus"])
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._http.server_port}/apis/trainer.kubeflow.org/v1alpha1/x/status"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def code(self, headers, body: bytes) -> int:
        if headers["Authorization"] != f"Bearer {self.token.read_text().strip()}":
            return 403
        if len(body) > 64 * 1024:
            return 413
        status = json.loads(body).get("trainerStatus", {})
        metrics = status.get("metrics", [])
        percentage, left = status.get("progressPercentage", 0), status.get("estimatedRemainingSeconds", 0)
        valid = (
            set(status) <= {"lastUpdatedTime", "progressPercentage", "estimatedRemainingSeconds", "metrics"}
            and RFC_3339.fullmatch(status.get("lastUpdatedTime", ""))
            and type(percentage) is int
            and 0 <= percentage <= 100
            and type(left) is int
            and left >= 0
            and len(metrics) <= 256
            and all(set(one) == {"name", "value"} for one in metrics)
            and all(isinstance(text, str) and 1 <= len(text) <= 64 for one in metrics for text in one.values())
        )
        return 200 if valid else 422

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def status_server(tmp_path, monkeypatch):
    server = StatusServer(tmp_path)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", server.url)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_CA_CERT", str(server.ca_file))
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(server.token))
    monkeypatch.setattr(train_progress, "_SECONDS_BETWEEN_READS", 0.05)
    monkeypatch.setattr(train_progress, "_SECONDS_BETWEEN_POSTS", 0.1)
    yield server
    server.close()


def test_the_same_progress_is_posted_where_the_pod_is_given_an_address(metrics, status_server, capsys):
    report = ProgressReport(metrics.progress(), 0)
    metrics(step(1), step(2))
    until(lambda: status_server.posts and status_server.posts[-1]["progressPercentage"] == 25)
    values = {one["name"]: one["value"] for one in status_server.posts[-1]["metrics"]}
    assert (values["current_step"], values["total_steps"], values["train_loss"]) == ("2", "8", "1.8")
    # The token is renewed within the hour.
    status_server.token.write_text("second\n")
    metrics(*(step(number) for number in range(3, 9)))
    until(lambda: status_server.posts[-1]["progressPercentage"] == 99)
    report.end(True)
    assert status_server.posts[-1]["progressPercentage"] == 100
    assert status_server.posts[-1]["estimatedRemainingSeconds"] == 0
    assert set(status_server.answers) == {200}, capsys.readouterr().out


def test_a_server_that_refuses_is_said_once_and_ends_nothing(metrics, status_server, capsys):
    status_server.code = lambda headers, body: 422
    report = ProgressReport(metrics.progress(), 0)
    metrics(step(1))
    until(lambda: len(status_server.answers) > 2)
    report.end(False)
    assert capsys.readouterr().out.count("the progress is not taken by") == 1
