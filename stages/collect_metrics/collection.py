"""collect_metrics: turns the trainer's log lines into one table and KFP metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.artifacts import MetricsArtifact, OutputArtifact, place_file
from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.model.folder import config_value, public_name
from kfp_osft.shared.processes.pod import use_workspace_of
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.tracking.mlflow_run import TrackedRun, tracked_run
from kfp_osft.shared.training.figures import figures, trained_config
from kfp_osft.shared.training.health import broken_model, check_trained, warnings_of
from kfp_osft.shared.training.metrics import number, read_steps, with_resumptions, write_table
from kfp_osft.shared.training.run_file import TRAINING_LOG, dataset_source, is_local, read_run
from kfp_osft.shared.training.run_parameters import training_parameters, with_effect
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses

METRICS_FILE = "metrics.jsonl"
_CHECK_SECONDS = 600


class Collected(NamedTuple):
    """The outputs of the stage: the path of the table."""

    metrics_path: str


def collect(
    checkpoint_dir: str,
    output_metrics: MetricsArtifact,
    output_steps: OutputArtifact,
    output_training_log: OutputArtifact,
    check_matrices: int = 0,
) -> Collected:
    """Writes checkpoint_dir/metrics.jsonl, one line per optimizer step, and logs the metrics.

    Args:
        checkpoint_dir: of the training.
        output_metrics: receives the figures.
        output_steps: receives the table.
        output_training_log: receives the log of the training.
        check_matrices: number of weight matrices, at least 0, for which the share of the change in the directions to
            keep is measured as well (KnowledgeCheck.metrics); takes about ten minutes at most, whatever their size.

    Raises:
        InputError: a line is not mini-trainer's, or check_matrices is negative.
        TrainingError: the training made no step, or its loss was never a number.
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
    run = read_run(folder)
    losses = validation_losses(steps, loss_after_the_last_step(folder))
    held_out = (run or {}).get("about", {}).get("validation_samples")
    table = with_resumptions(with_measured_losses(steps, losses, held_out), folder)
    write_table(table, folder / METRICS_FILE)
    place_file(folder / METRICS_FILE, output_steps)
    _place_log(folder / TRAINING_LOG, output_training_log)
    found = figures(folder, steps, run)
    if check_matrices:
        found |= _kept(folder, steps, check_matrices)
    for name, value in found.items():
        output_metrics.log_metric(name, value)
        log(f"{name} = {value:,}" if isinstance(value, int) else f"{name} = {value:.6g}")
    with tracked_run(run) as tracked:
        if tracked is not None and run is not None:
            _track(tracked, run, table, found, folder)
    return Collected(str(folder / METRICS_FILE))


def with_measured_losses(
    steps: Sequence[Mapping[str, Any]], losses: Mapping[float, float], held_out: int | None = None
) -> list[dict[str, Any]]:
    """The steps with val_loss, and val_num_samples beside it, only where a validation measured one, else null.

    Args:
        steps: as read_steps gives them.
        losses: as validation_losses gives them.
        held_out: rows of the validation. mini-trainer's own count (0.6.1 to 0.9.0, compute_validation_loss) is that of
            its last batch, and counts only where this is None.
    """
    found = []
    for step in steps:
        loss = losses.get(number(step.get("total_samples_accumulated")))
        samples = {} if loss is None else {"val_num_samples": held_out or step.get("val_num_samples")}
        others = {name: value for name, value in step.items() if name != "val_num_samples"}
        found.append({**others, "val_loss": loss, **samples})
    return found


def _track(
    tracked: TrackedRun, run: Mapping[str, Any], table: list[dict], found: Mapping[str, float], folder: Path
) -> None:
    dataset = run["about"].get("dataset", "")
    tracked.log_parameters(
        {
            "base_model": public_name(run["about"].get("base_model", "")),
            "dataset": dataset_source(dataset).get("uri") or Path(dataset).name,
            **with_effect(training_parameters(run), on_this_computer=is_local(run)),
        }
    )
    tracked.log_figures(found, table[-1]["step"])
    tracked.log_curves(table)
    tracked.log_file(folder / METRICS_FILE, METRICS_FILE)
    tracked.end()


def _place_log(file: Path, artifact: OutputArtifact) -> None:
    if file.is_file():
        place_file(file, artifact)
        return
    log(f"The training wrote no {file.name} to {file.parent}")
    with replacing_file(Path(artifact.path)) as unfinished:
        unfinished.write_text(f"The training wrote no {file.name}.\n", encoding="utf-8")


def _kept(folder: Path, steps: list[dict], matrices: int) -> dict[str, float]:
    """Figures of the check; none, with a warning in the log, if the model or its base cannot be read."""
    # Imported here, as this reads weights and is rarely asked for.
    from kfp_osft.shared.knowledge.check import check_run
    from kfp_osft.shared.training.checkpoints import checkpoints

    candidates = checkpoints(folder, steps, validation_losses(steps, loss_after_the_last_step(folder)))
    try:
        if not candidates:
            raise InputError("no checkpoint found")
        check = check_run(folder, candidates[0].folder, matrices=matrices, seconds=_CHECK_SECONDS, tell=log)
    except (InputError, OSError, RuntimeError, ValueError) as error:
        log(f"Warning: what the model kept could not be measured: {error}")
        return {}
    log(f"{check.verdict[0].upper()}{check.verdict[1:]}")
    return check.metrics()
