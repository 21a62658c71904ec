"""render_loss_chart: the chart of one run, titled with what the run was."""

from pathlib import Path

from kfp_osft.shared.errors import InputError
from kfp_osft.shared.loss_chart import render_loss_chart
from kfp_osft.shared.run_file import read_run
from kfp_osft.shared.training_metrics import read_table


def render(metrics_path: str, html_path: str) -> None:
    """Draws the table that collect_metrics wrote into one HTML file.

    Raises:
        InputError: there is no such table.
    """
    table = Path(metrics_path)
    if not table.is_file():
        raise InputError(f"metrics_path={metrics_path}: there is no such file")
    title, subtitle = run_titles(table.parent)
    target = Path(html_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    render_loss_chart(read_table(table), target, title=title, subtitle=subtitle)


def run_titles(checkpoint_dir: Path) -> tuple[str, str]:
    """Title and subtitle: the model; data, ratio and wall-clock, where the run's file tells them."""
    run = read_run(checkpoint_dir)
    if run is None:
        return "OSFT training loss", checkpoint_dir.name
    about, osft = run["about"], run["osft"]
    minutes, seconds = divmod(round(run["seconds"]), 60)
    return (
        f"OSFT of {Path(about['base_model']).name}",
        f"{Path(about['dataset']).name}, {about['samples']:,} samples · unfreeze rank ratio "
        f"{osft['unfreeze_rank_ratio']:g} · {minutes} min {seconds} s",
    )
