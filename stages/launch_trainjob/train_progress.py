"""Part of the training script: how far the training is, where people look for it; standard library only.

One source, the steps that mini-trainer writes, and two ways to tell them:

- Red Hat OpenShift AI 3.4 and later: the Trainer asks http://<pod>:<port>/metrics for a JSON object and shows it on the
  TrainJob; at the end the same object as the container's termination message decides
  (opendatahub-io/trainer, pkg/rhai/progression).
- Kubeflow Trainer 2.3 with the gate TrainJobStatus: the pod posts it to KUBEFLOW_TRAINER_SERVER_URL
  (kubeflow/trainer, pkg/statusserver).
"""

import datetime
import http.server
import json
import math
import os
import ssl
import threading
import urllib.request
from pathlib import Path
from typing import Any

from kfp_osft.stages.launch_trainjob.train_end import SAY
from kfp_osft.stages.launch_trainjob.train_steps import NewSteps

TERMINATION_LOG = "/dev/termination-log"
SERVER_URL, SERVER_CA, SERVER_TOKEN = (
    "KUBEFLOW_TRAINER_SERVER_URL",
    "KUBEFLOW_TRAINER_SERVER_CA_CERT",
    "KUBEFLOW_TRAINER_SERVER_TOKEN",
)
_SECONDS_BETWEEN_READS = 1.0
_SECONDS_BETWEEN_POSTS = 15.0
_POST_TIMEOUT_SECONDS = 10
_STEPS_OF_AN_ESTIMATE = 20
#: As the dashboards name them -> as mini-trainer writes them.
_TRAIN_METRICS = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    "samples_per_second": "samples_per_second",
}


class Progress:
    """Reads the steps of a training, from those that come after its start.

    Args:
        metrics_file: that mini-trainer appends a line of JSON to, a step.
        read_from: bytes of it that an earlier training wrote.
        epochs: of the training.
    """

    def __init__(self, metrics_file: Path, read_from: int, epochs: int) -> None:
        self._steps, self._epochs = NewSteps(metrics_file, read_from), epochs
        self._lock = threading.Lock()
        self._step: dict[str, Any] = {}
        self._seconds: list[float] = []
        self._validation_loss: float | None = None

    def status(self, complete: bool = False) -> dict[str, Any]:
        """The state now: progressPercentage, currentStep, totalSteps, totalEpochs, estimatedRemainingSeconds as whole
        numbers (a float loses the poll), currentEpoch as a float, trainMetrics, evalMetrics with finite values only.

        Until the end there is always something left: after a remaining time of 0 the Trainer looks no more.

        Args:
            complete: the training has ended well.
        """
        with self._lock:
            for new in self._steps.read():
                self._took(new)
            step, epochs = _whole(self._step.get("step")), max(1, self._epochs)
            total = _whole(self._step.get("steps_per_epoch")) * epochs
            # A resumed training may count on, and an odd last batch make one step more.
            total = step if complete else max(total, step)
            left = (total - step) * sum(self._seconds) / max(1, len(self._seconds))
            status: dict[str, Any] = {
                "progressPercentage": 100 if complete else min(99, 100 * step // total) if total else 0,
                "currentStep": step,
                "currentEpoch": float(epochs) if complete else round(epochs * step / total, 2) if total else 0.0,
                "totalEpochs": epochs,
                "trainMetrics": {
                    name: value
                    for name, field in _TRAIN_METRICS.items()
                    if (value := _finite(self._step.get(field))) is not None
                },
            }
            if total:
                status["totalSteps"] = total
                status["estimatedRemainingSeconds"] = 0 if complete else max(1, math.ceil(left))
            if self._validation_loss is not None:
                status["evalMetrics"] = {"loss": self._validation_loss}
            return status

    def _took(self, step: dict[str, Any]) -> None:
        # The first step pays for the start.
        if len(self._seconds) == 1 and self._step:
            self._seconds.clear()
        self._step = step
        seconds = _finite(step.get("time_per_batch"))
        if seconds is not None:
            self._seconds = [*self._seconds, seconds][-_STEPS_OF_AN_ESTIMATE:]
        if (loss := _finite(step.get("val_loss"))) is not None:
            self._validation_loss = loss


class ProgressReport:
    """Tells a Progress where the pod's surroundings want it, until end().

    Args:
        progress: of this training.
        port: to serve /metrics on; 0: not asked for.
        is_primary: whether this is node 0: the others leave the termination message only, which the Trainer reads from
            any of them.
        termination_log: file of the container's termination message.
    """

    def __init__(
        self, progress: Progress, port: int, is_primary: bool = True, termination_log: str = TERMINATION_LOG
    ) -> None:
        self._progress, self._termination_log = progress, Path(termination_log)
        self._port = port
        self._ended = threading.Event()
        self._complaints: set[str] = set()
        self._latest = progress.status()
        self._url = os.environ.get(SERVER_URL, "") if is_primary else ""
        if port and is_primary:
            self._serve(port)
        if (port and is_primary) or self._url:
            # A volume that does not answer at once must not keep a poll waiting: it has two seconds.
            threading.Thread(target=self._read_again_and_again, daemon=True).start()
        if self._url:
            threading.Thread(target=self._post_again_and_again, daemon=True).start()

    def end(self, complete: bool) -> None:
        """The last report: that the training is complete, or how far it was when it failed."""
        self._ended.set()
        self._latest = status = self._progress.status(complete)
        if self._port:
            try:
                # Where there is no container there is no such file, and none must be made.
                if self._termination_log.exists():
                    self._termination_log.write_text(json.dumps(status), encoding="utf-8")
            except OSError as error:
                self._say(f"the termination message cannot be written: {error}")
        if self._url:
            self._post(status)

    def _serve(self, port: int) -> None:
        report = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = json.dumps(report._latest).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Polls are not worth a line."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Of a poll that goes away in the middle."""

        try:
            server = Server(("0.0.0.0", port), Handler)
        except OSError as error:
            self._say(f"no progress is shown: port {port} cannot be used: {error}")
            return
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _read_again_and_again(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_READS):
            status = self._progress.status()
            if not self._ended.is_set():
                self._latest = status

    def _post_again_and_again(self) -> None:
        posted: dict[str, Any] = {}
        pause = 0.0
        while not self._ended.wait(pause):
            status, pause = self._latest, _SECONDS_BETWEEN_POSTS
            if status != posted and self._post(status):
                posted = status

    def _post(self, status: dict[str, Any]) -> bool:
        metrics = {
            "current_step": status["currentStep"],
            "total_steps": status.get("totalSteps"),
            "current_epoch": status["currentEpoch"],
            "total_epochs": status["totalEpochs"],
            **{f"train_{name}": value for name, value in status["trainMetrics"].items()},
            **{f"eval_{name}": value for name, value in status.get("evalMetrics", {}).items()},
        }
        body = {
            "lastUpdatedTime": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "progressPercentage": status["progressPercentage"],
            # Names and values are texts of 1 to 64 characters.
            "metrics": [{"name": name, "value": _text(value)} for name, value in metrics.items() if value is not None],
        }
        if "estimatedRemainingSeconds" in status:
            body["estimatedRemainingSeconds"] = status["estimatedRemainingSeconds"]
        try:
            # The token is renewed within the hour.
            token = Path(os.environ[SERVER_TOKEN]).read_text(encoding="utf-8").strip()
            request = urllib.request.Request(
                self._url,
                json.dumps({"trainerStatus": body}).encode(),
                {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                method="POST",
            )
            trust = ssl.create_default_context(cafile=os.environ.get(SERVER_CA) or None)
            # The cluster's own server: no proxy leads there.
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
            )
            with opener.open(request, timeout=_POST_TIMEOUT_SECONDS):
                return True
        except (OSError, KeyError, ValueError) as error:
            self._say(f"the progress is not taken by {self._url}: {error}")
            return False

    def _say(self, sentence: str) -> None:
        """Once: it is tried again and again."""
        if sentence not in self._complaints:
            self._complaints.add(sentence)
            print(f"{SAY}{sentence}", flush=True)


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def _text(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _whole(value: Any) -> int:
    number = _finite(value)
    return int(number) if number is not None else 0
