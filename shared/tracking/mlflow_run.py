"""One MLflow run for each pipeline run, where MLFLOW_TRACKING_URI is set; the stages of a run add to the same one.

Where to log, and as whom, its client reads from its own variables (MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME,
MLFLOW_TRACKING_AUTH, MLFLOW_EXPERIMENT_NAME ...). A run is not lost because its figures could not be logged: all
failures are warnings.
"""

import datetime
import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kfp_osft
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import redacted, shown
from kfp_osft.shared.training.metrics import number

#: MLflow's own variable: where it is set, runs are logged.
TRACKING_URI = "MLFLOW_TRACKING_URI"
#: The experiment where MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID name none.
EXPERIMENT = "kfp-osft"
#: Columns of the step table that become curves.
CURVES = ("loss", "val_loss", "lr", "grad_norm", "tokens_per_second")

_RUN_TAG = "kfp_osft.pipeline_run"
# MLflow's limits of a request (mlflow/utils/validation.py).
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE, _TAGS_AT_ONCE, _LONGEST_PARAMETER = 1000, 100, 100, 6000
# Instead of 7 tries of 120 seconds: a server that is gone must not keep a stage waiting.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class TrackedRun:
    """A run on the MLflow server.

    Args:
        client: mlflow.MlflowClient.
        run_id: MLflow's.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self.run_id = client, run_id

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Logs parameters; one that was logged before with another value is an error of MLflow's."""
        from mlflow.entities import Param

        items = [Param(name, shown(str(value))[:_LONGEST_PARAMETER]) for name, value in parameters.items()]
        for part in _parts(items, _PARAMETERS_AT_ONCE):
            self._client.log_batch(self.run_id, params=part)

    def log_figures(self, figures: Mapping[str, float], step: int = 0) -> None:
        """Logs single figures, as of a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._log_metrics([Metric(name, float(value), now, step) for name, value in figures.items()])

    def log_curves(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Logs the columns CURVES of the step table, each value at its step and time; twice is as once."""
        from mlflow.entities import Metric

        values = [(name, number(step.get(name)), step) for step in steps for name in CURVES]
        self._log_metrics(
            [Metric(name, value, _milliseconds(step), step["step"]) for name, value, step in values if value == value]
        )

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags; their names get the prefix kfp_osft."""
        from mlflow.entities import RunTag

        items = [
            RunTag(f"kfp_osft.{name}", shown(str(value))) for name, value in tags.items() if value not in (None, "")
        ]
        for part in _parts(items, _TAGS_AT_ONCE):
            self._client.log_batch(self.run_id, tags=part)

    def log_file(self, path: Path, name: str) -> None:
        """Uploads a file as the run's artifact of that name."""
        # MLflow takes the name of the file itself.
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, name)
            link.symlink_to(path.resolve())
            self._client.log_artifact(self.run_id, str(link))

    def end(self) -> None:
        """Marks the run as finished; more can be logged to it."""
        self._client.set_terminated(self.run_id)

    def _log_metrics(self, metrics: list[Any]) -> None:
        for part in _parts(metrics, _METRICS_AT_ONCE):
            self._client.log_batch(self.run_id, metrics=part)


def is_wanted() -> bool:
    """Whether runs are to be logged to MLflow."""
    return bool(os.environ.get(TRACKING_URI))


def is_installed() -> bool:
    """Whether MLflow's client is here: the package mlflow, or mlflow-skinny."""
    return importlib.util.find_spec("mlflow") is not None


@contextmanager
def tracked_run(run: Mapping[str, Any] | None) -> Iterator[TrackedRun | None]:
    """The MLflow run of a pipeline run, made where there is none yet; None where MLflow is not asked for.

    What goes wrong inside the block, or before it, is a warning in the log.

    Args:
        run: what read_run gives; a training that has no such file is not logged.
    """
    if not is_wanted() or run is None:
        yield None
        return
    if not is_installed():
        log(f"Warning: {TRACKING_URI} is set, but MLflow is not installed here, so that nothing is logged there")
        yield None
        return
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    where = redacted(os.environ[TRACKING_URI])
    tracked = None
    try:
        tracked = _run_of(run)
    # MlflowException, what its HTTP library raises, what a plugin for authentication raises.
    except Exception as error:
        log(f"Warning: nothing is logged to MLflow ({where}): {_first_line(error)}")
    if tracked is None:
        yield None
        return
    try:
        yield tracked
    except Exception as error:
        log(f"Warning: not all is logged to MLflow ({where}, run {tracked.run_id}): {_first_line(error)}")
    else:
        log(f"Logged to MLflow ({where}), run {tracked.run_id}")


def _run_of(run: Mapping[str, Any]) -> TrackedRun:
    from mlflow import MlflowClient

    client = MlflowClient()
    pipeline_run = run.get("pipeline_run") or {}
    # Without a pipeline, a training is a run of its own.
    key = pipeline_run.get("id") or run["fingerprint"]
    experiment = _experiment(client)
    found = client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{key}'", max_results=1)
    if found:
        return TrackedRun(client, found[0].info.run_id)
    tags = {
        _RUN_TAG: key,
        "kfp_osft.version": kfp_osft.__version__,
        "kfp_osft.fingerprint": run["fingerprint"],
        "kfp_osft.trainjob": run.get("trainjob_name", ""),
        "mlflow.source.name": "kfp-osft",
        "mlflow.source.type": "JOB",
    }
    name = pipeline_run.get("name") or run.get("trainjob_name")
    return TrackedRun(client, client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _experiment(client: Any) -> str:
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    if not name and (experiment := os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return experiment
    name = name or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException:
            # Another run has made it meanwhile, or it cannot be made.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def _milliseconds(step: Mapping[str, Any]) -> int:
    """mini-trainer's time, in the local time of its pod; 0, the same each time, where it has none."""
    try:
        return int(datetime.datetime.fromisoformat(step["timestamp"]).timestamp() * 1000)
    except (KeyError, TypeError, ValueError):
        return 0


def _parts(items: list[Any], most: int) -> Iterator[list[Any]]:
    for begin in range(0, len(items), most):
        yield items[begin : begin + most]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
