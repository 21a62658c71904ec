"""render_loss_chart: draws the chart of one run, with a title and subtitle that describe the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.processes.pod import use_workspace_of
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.tracking.mlflow_run import tracked_run
from kfp_osft.shared.training.checkpoints import checkpoints
from kfp_osft.shared.training.figures import loss_includes_routers
from kfp_osft.shared.training.metrics import read_table
from kfp_osft.shared.training.run_file import read_run
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses
from kfp_osft.stages.render_loss_chart.chart import RunFacts, write_chart_page, write_chart_png

#: The PNG beside the table.
CHART_PICTURE = "loss_chart.png"


def render(metrics_path: str, html_path: str) -> None:
    """Draws the table that collect_metrics wrote into one HTML file, and into loss_chart.png beside the table.

    Raises:
        InputError: the table does not exist.
    """
    table = Path(metrics_path)
    if not table.is_file():
        raise InputError(f"metrics_path={metrics_path}: no such file")
    use_workspace_of(table.parent)
    steps = read_table(table)
    run = read_run(table.parent)
    title, subtitle = run_titles(run, table.parent)
    facts = RunFacts(
        title,
        subtitle,
        run["seconds"] if run else None,
        best_step(table.parent, steps),
        not loss_includes_routers(table.parent),
    )
    target = Path(html_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_chart_page(steps, target, facts)
    write_chart_png(steps, table.with_name(CHART_PICTURE), facts)
    with tracked_run(run) as tracked:
        if tracked is not None:
            tracked.log_file(target, "loss_chart.html")


def run_titles(run: Mapping[str, Any] | None, checkpoint_dir: Path) -> tuple[str, str]:
    """Title (the model) and subtitle (data and ratio), as far as what read_run returned has them."""
    if run is None:
        return "OSFT training loss", checkpoint_dir.name
    about, osft = run["about"], run["osft"]
    return (
        f"OSFT of {Path(about['base_model']).name}",
        f"{Path(about['dataset']).name}, {about['samples']:,} samples · unfreeze rank ratio "
        f"{osft['unfreeze_rank_ratio']:g}",
    )


def best_step(checkpoint_dir: Path, steps: list[dict]) -> int | None:
    """Step of the checkpoint with the lowest validation loss, or None where none was validated."""
    losses = validation_losses(steps, loss_after_the_last_step(checkpoint_dir))
    best = next(iter(checkpoints(checkpoint_dir, steps, losses)), None)
    return best.step if best and (best.is_best or best.validation_loss is not None) else None
