"""collect_metrics: the trainer's lines to one table and to KFP metrics."""

from pathlib import Path
from typing import NamedTuple, Protocol

from kfp_osft.shared.log import log
from kfp_osft.shared.run_file import read_run
from kfp_osft.shared.training_metrics import check_trained, read_steps, summarize, warnings_of, write_table

METRICS_FILE = "metrics.jsonl"
#: The parameters people compare runs by, and the counts of rows, under the names they get as metrics.
_PARAMETERS = {
    "unfreeze_rank_ratio": "unfreeze_rank_ratio",
    "effective_batch_size": "effective_batch_size",
    "max_seq_len": "max_seq_len",
    "learning_rate": "peak_learning_rate",
    "seed": "seed",
}
_ROWS = {"samples": "rows_kept", "too_long": "rows_too_long", "too_short": "rows_too_short"}


class MetricsArtifact(Protocol):
    """What is used of a KFP Metrics artifact."""

    def log_metric(self, metric: str, value: float) -> None: ...


class Collected(NamedTuple):
    """Where the table is."""

    metrics_path: str


def collect(checkpoint_dir: str, output_metrics: MetricsArtifact) -> Collected:
    """Writes checkpoint_dir/metrics.jsonl, a line an optimizer step, and logs the metrics.

    Raises:
        InputError: a line that is not mini-trainer's.
        TrainingError: no step was made, or the loss was never a number.
    """
    folder = Path(checkpoint_dir)
    steps = read_steps(folder)
    check_trained(steps)
    for warning in warnings_of(steps):
        log(f"Warning: {warning}")
    write_table(steps, folder / METRICS_FILE)

    metrics = summarize(steps)
    run = read_run(folder)
    if run:
        metrics |= {name: run["osft"][key] for key, name in _PARAMETERS.items() if key in run["osft"]}
        metrics |= {name: run["about"][key] for key, name in _ROWS.items()}
        metrics["wall_clock_seconds"] = run["seconds"]
    for name, value in metrics.items():
        output_metrics.log_metric(name, value)
        log(f"{name} = {value:.6g}")
    return Collected(str(folder / METRICS_FILE))
