"""collect_metrics: the trainer's lines to one table and to KFP metrics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kfp_osft.shared.errors import InputError
from kfp_osft.shared.log import log
from kfp_osft.shared.run_file import read_run
from kfp_osft.shared.training_metrics import check_trained, read_steps, summarize, warnings_of, write_table
from kfp_osft.shared.validation import loss_after_the_last_step, validation_losses

METRICS_FILE = "metrics.jsonl"
#: The parameters people compare runs by, and the counts of rows, under the names they get as metrics.
PARAMETERS = {
    "unfreeze_rank_ratio": "unfreeze_rank_ratio",
    "effective_batch_size": "effective_batch_size",
    "max_seq_len": "max_seq_len",
    "learning_rate": "peak_learning_rate",
    "seed": "seed",
}
_ROWS = {"samples": "rows_kept", "too_long": "rows_too_long", "too_short": "rows_too_short"}
# mini-trainer's (TrainingArgs.seed), where none is passed.
_SEED = 42
_CHECK_SECONDS = 600


class MetricsArtifact(Protocol):
    """What is used of a KFP Metrics artifact."""

    def log_metric(self, metric: str, value: float) -> None: ...


class Collected(NamedTuple):
    """Where the table is."""

    metrics_path: str


def collect(checkpoint_dir: str, output_metrics: MetricsArtifact, check_matrices: int = 0) -> Collected:
    """Writes checkpoint_dir/metrics.jsonl, a line an optimizer step, and logs the metrics.

    Args:
        checkpoint_dir: of the training.
        output_metrics: gets the figures.
        check_matrices: of so many weight matrices, at least 0, the share of the change in the directions to keep is
            measured too (KnowledgeCheck.metrics); it ends in about ten minutes, whatever their size.

    Raises:
        InputError: a line that is not mini-trainer's; a negative check_matrices.
        TrainingError: no step was made, or the loss was never a number.
    """
    if check_matrices < 0:
        raise InputError(f"check_matrices={check_matrices} is not allowed; allowed: an integer of at least 0")
    folder = Path(checkpoint_dir)
    steps = read_steps(folder)
    check_trained(steps)
    for warning in warnings_of(steps):
        log(f"Warning: {warning}")
    write_table(steps, folder / METRICS_FILE)
    found = figures(folder, steps, read_run(folder))
    if check_matrices:
        found |= _kept(folder, steps, check_matrices)
    for name, value in found.items():
        output_metrics.log_metric(name, value)
        log(f"{name} = {value:,}" if isinstance(value, int) else f"{name} = {value:.6g}")
    return Collected(str(folder / METRICS_FILE))


def _kept(folder: Path, steps: list[dict], matrices: int) -> dict[str, float]:
    """Figures of the check; none where the model or its base cannot be read, which the log says."""
    # The weights are read here, and only when asked for.
    from kfp_osft.shared.checkpoints import checkpoints
    from kfp_osft.shared.knowledge_check import check_run

    candidates = checkpoints(folder, steps, validation_losses(steps, loss_after_the_last_step(folder)))
    try:
        if not candidates:
            raise InputError("there is no checkpoint")
        check = check_run(folder, candidates[0].folder, matrices=matrices, seconds=_CHECK_SECONDS, with_losses=False,
                          tell=log)
    except (InputError, OSError, RuntimeError, ValueError) as error:
        log(f"Warning: what the model kept could not be measured: {error}")
        return {}
    log(f"{check.verdict[0].upper()}{check.verdict[1:]}")
    return check.metrics()


def figures(folder: Path, steps: list[dict], run: Mapping[str, Any] | None) -> dict[str, float | int]:
    """The figures people compare runs by, all of them finite.

    Those of summarize, and, where there are such:

    - validation_loss, lowest_validation_loss: last and smallest, of the trainer's validations
    - unfreeze_rank_ratio, effective_batch_size, max_seq_len, peak_learning_rate, seed: as the training got them
    - rows_kept, rows_dropped: of the dataset; rows_too_long and rows_too_short are the latter by reason
    - wall_clock_seconds: of the whole training, with loading the model and saving checkpoints

    Args:
        folder: of the checkpoints, with the trainer's log.
        steps: as read_steps gives them.
        run: what read_run gives.
    """
    found: dict[str, float | int] = summarize(steps)
    losses = list(validation_losses(steps, loss_after_the_last_step(folder)).values())
    if losses:
        found |= {"validation_loss": losses[-1], "lowest_validation_loss": min(losses)}
    if run:
        osft, about = {"seed": _SEED, **run["osft"]}, run["about"]
        found |= {name: osft[key] for key, name in PARAMETERS.items() if key in osft}
        found |= {name: about[key] for key, name in _ROWS.items() if key in about}
        if {"rows", "samples"} <= about.keys():
            found["rows_dropped"] = about["rows"] - about["samples"]
        if "seconds" in run:
            found["wall_clock_seconds"] = run["seconds"]
    return found
