"""render_loss_chart: draws the chart of one run, with a title and subtitle that describe the run."""

from pathlib import Path

from kfp_osft.shared.processes.pod import use_workspace_of
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.metrics import read_table
from kfp_osft.shared.training.run_file import read_run
from kfp_osft.stages.render_loss_chart.chart import write_chart_page, write_chart_png

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
    title, subtitle = run_titles(table.parent, len(steps))
    target = Path(html_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_chart_page(steps, target, title=title, subtitle=subtitle)
    write_chart_png(steps, table.with_name(CHART_PICTURE), title=title, subtitle=subtitle)


def run_titles(checkpoint_dir: Path, steps: int) -> tuple[str, str]:
    """Title (the model) and subtitle (data, ratio, steps and wall-clock time), as far as the run's file has them."""
    run = read_run(checkpoint_dir)
    counted = f"{steps:,} step{'' if steps == 1 else 's'}"
    if run is None:
        return "OSFT training loss", f"{checkpoint_dir.name} · {counted}"
    about, osft = run["about"], run["osft"]
    return (
        f"OSFT of {Path(about['base_model']).name}",
        f"{Path(about['dataset']).name}, {about['samples']:,} samples · unfreeze rank ratio "
        f"{osft['unfreeze_rank_ratio']:g} · {counted} · {duration_text(run['seconds'])}",
    )
