"""collect_metrics: the trainer's lines to one table and to KFP metrics."""

from pathlib import Path
from typing import NamedTuple, Protocol

from kfp_osft.shared.files.artifacts import OutputArtifact, place_file
from kfp_osft.shared.model.folder import config_value
from kfp_osft.shared.processes.pod import use_workspace_of
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.figures import figures, trained_config
from kfp_osft.shared.training.health import broken_model, check_trained, warnings_of
from kfp_osft.shared.training.metrics import read_steps, write_table
from kfp_osft.shared.training.run_file import TRAINING_LOG, read_run
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses

METRICS_FILE = "metrics.jsonl"
_CHECK_SECONDS = 600


class MetricsArtifact(Protocol):
    """What is used of a KFP Metrics artifact."""

    def log_metric(self, metric: str, value: float) -> None: ...


class Collected(NamedTuple):
    """Where the table is."""

    metrics_path: str


def collect(
    checkpoint_dir: str,
    output_metrics: MetricsArtifact,
    output_steps: OutputArtifact,
    output_training_log: OutputArtifact,
    check_matrices: int = 0,
) -> Collected:
    """Writes checkpoint_dir/metrics.jsonl, a line an optimizer step, and logs the metrics.

    Args:
        checkpoint_dir: of the training.
        output_metrics: gets the figures.
        output_steps: gets the table.
        output_training_log: gets the log of the training.
        check_matrices: of so many weight matrices, at least 0, the share of the change in the directions to keep is
            measured too (KnowledgeCheck.metrics); it ends in about ten minutes, whatever their size.

    Raises:
        InputError: a line that is not mini-trainer's; a negative check_matrices.
        TrainingError: no step was made, or the loss was never a number.
    """
    if check_matrices < 0:
        raise InputError(f"check_matrices={check_matrices} is not allowed; allowed: an integer of at least 0")
    folder = Path(checkpoint_dir)
    use_workspace_of(folder)
    steps = read_steps(folder)
    check_trained(steps)
    for warning in warnings_of(steps):
        log(f"Warning: {warning}")
    if broken := broken_model(steps, config_value(trained_config(folder), "vocab_size")):
        log(f"Warning: The training broke the model: {broken}. export_model will refuse it.")
    write_table(steps, folder / METRICS_FILE)
    place_file(folder / METRICS_FILE, output_steps)
    _place_log(folder / TRAINING_LOG, output_training_log)
    found = figures(folder, steps, read_run(folder))
    if check_matrices:
        found |= _kept(folder, steps, check_matrices)
    for name, value in found.items():
        output_metrics.log_metric(name, value)
        log(f"{name} = {value:,}" if isinstance(value, int) else f"{name} = {value:.6g}")
    return Collected(str(folder / METRICS_FILE))


def _place_log(file: Path, artifact: OutputArtifact) -> None:
    if file.is_file():
        place_file(file, artifact)
        return
    log(f"The training left no {file.name} in {file.parent}")
    Path(artifact.path).write_text(f"The training left no {file.name}.\n", encoding="utf-8")


def _kept(folder: Path, steps: list[dict], matrices: int) -> dict[str, float]:
    """Figures of the check; none where the model or its base cannot be read, which the log says."""
    # The weights are read here, and only when asked for.
    from kfp_osft.shared.knowledge.check import check_run
    from kfp_osft.shared.training.checkpoints import checkpoints

    candidates = checkpoints(folder, steps, validation_losses(steps, loss_after_the_last_step(folder)))
    try:
        if not candidates:
            raise InputError("there is no checkpoint")
        check = check_run(
            folder, candidates[0].folder, matrices=matrices, seconds=_CHECK_SECONDS, with_losses=False, tell=log
        )
    except (InputError, OSError, RuntimeError, ValueError) as error:
        log(f"Warning: what the model kept could not be measured: {error}")
        return {}
    log(f"{check.verdict[0].upper()}{check.verdict[1:]}")
    return check.metrics()
