"""The loss chart of a training: one self-contained HTML file, and the same chart as a PNG."""

import json
import math
import textwrap
from pathlib import Path
from typing import NamedTuple

from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.pages.page import figure_row
from kfp_osft.shared.pages.theme import LIGHT, chart_config, vega_lite_version
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.plain_text import plain_text
from kfp_osft.shared.training.metrics import summarize
from kfp_osft.stages.render_loss_chart.chart_data import PANEL_FIELDS, chart_notes, is_drawable, loss_text
from kfp_osft.stages.render_loss_chart.chart_spec import chart_spec
from kfp_osft.stages.render_loss_chart.html_page import Drawing, html_page

# What the page shows of the step under the pointer: heading, column and kind.
_FIGURES = (
    ("Loss", "loss", "loss"),
    ("Smoothed", "smoothed", "loss"),
    ("Validation loss", "validation", "loss"),
    ("Learning rate", "lr", "power"),
    ("Gradient norm", "grad_norm", "loss"),
    ("Tokens per second", "tokens_per_second", "whole"),
)
_PNG_WIDTH = 860  # pixels of the plot
_PNG_SCALE = 1.5
_LONGEST_HEADING = 400


class RunFacts(NamedTuple):
    """What the chart shows of a run beside its steps.

    Attributes:
        title: plain text, such as the model's name; markup in it is escaped.
        subtitle: plain text, such as data and unfreeze rank ratio.
        seconds: wall-clock time of the training, or None where it is not known.
        best_step: step of the best checkpoint, where there is a choice.
        loss_is_cross_entropy: whether e to the power of the loss is a perplexity, see figures.loss_includes_routers.
    """

    title: str
    subtitle: str = ""
    seconds: float | None = None
    best_step: int | None = None
    loss_is_cross_entropy: bool = True


def write_chart_page(steps: list[dict], path: Path, facts: RunFacts) -> None:
    """Writes the chart of a training as one HTML file of at most 2 MB, whole or not at all.

    The same input gives the same bytes. If there is nothing to draw (no steps, a single one, no finite loss), the page
    says so instead.

    Args:
        steps: collect_metrics' table, as read_table returns it; step and loss are required, other fields are drawn if
            present.
        path: the file to write; its folder must exist.
        facts: of the run.
    """
    page = html_page(
        _heading(facts.title),
        _heading(facts.subtitle),
        chart_notes(steps),
        _figures(steps, facts),
        _drawing(steps, facts.best_step) if is_drawable(steps) else None,
    )
    with replacing_file(path) as unfinished:
        unfinished.write_bytes(page.encode())


def write_chart_png(steps: list[dict], path: Path, facts: RunFacts) -> None:
    """Writes the same chart as a PNG, about 1,400 pixels wide and in light colors, for READMEs and chats."""
    import vl_convert

    spec = chart_spec(steps, _PNG_WIDTH, facts.best_step)
    counted = f"{len(steps):,} step{'' if len(steps) == 1 else 's'}"
    duration = duration_text(facts.seconds) if facts.seconds is not None else ""
    subtitle = " · ".join(filter(None, [facts.subtitle, counted, duration]))
    below = [line for text in (_heading(subtitle), *chart_notes(steps)) for line in textwrap.wrap(text, 130)]
    spec["title"] = {"text": textwrap.wrap(_heading(facts.title), 84) or "", "subtitle": below}
    spec["config"] = chart_config(LIGHT)
    spec["padding"] = 24
    png = vl_convert.vegalite_to_png(json.dumps(spec), vl_version=vega_lite_version(), scale=_PNG_SCALE)
    with replacing_file(path) as unfinished:
        unfinished.write_bytes(png)


def _heading(text: str) -> str:
    """Names come from files and parameters of others, and vl-convert ends the process at a control character."""
    return textwrap.shorten(plain_text(text), _LONGEST_HEADING, placeholder=" ...")


def _drawing(steps: list[dict], best_step: int | None) -> Drawing:
    spec = chart_spec(steps, 600, best_step)
    # The page's script puts them in again.
    rows = spec["datasets"].pop("steps")
    panels = [field for field in ("loss", *PANEL_FIELDS) if field in rows[0]]
    return Drawing(
        spec,
        rows,
        axis="Step",
        figures=[figure for figure in _FIGURES if figure[1] in rows[0]],
        dots=list(enumerate(panels)),
        optional=("smoothed", "validation"),
        note=f"{len(rows):,} of the {len(steps):,} steps are drawn, with the minimum and maximum of every interval, "
        "so no peak is missing."
        if len(rows) < len(steps)
        else "",
    )


def _figures(steps: list[dict], facts: RunFacts) -> str:
    """The row of figures above the chart, as HTML."""
    if not steps:
        return ""
    figures = summarize(steps)
    lowest = next((step["step"] for step in steps if step.get("loss") == figures.get("lowest_loss")), None)
    perplexity = figures.get("final_perplexity") if facts.loss_is_cross_entropy else None
    tokens = figures.get("tokens")
    counts = [_plural(figures.get("epochs"), "epoch"), f"{_large(tokens)} tokens" if tokens else ""]
    if facts.seconds is not None:
        figures["training_seconds"] = facts.seconds
    shown = [
        ("Final loss", "final_loss", loss_text, perplexity and f"perplexity {loss_text(perplexity)}"),
        ("Lowest loss", "lowest_loss", loss_text, f"at step {lowest:,}" if lowest is not None else ""),
        ("Validation loss", "validation_loss", loss_text, "last one measured"),
        ("Steps", "steps", "{:,}".format, ", ".join(filter(None, counts))),
        (
            "Training time",
            "training_seconds",
            duration_text,
            "steps alone" if facts.seconds is None else "whole training",
        ),
        ("Tokens/second", "median_tokens_per_second", _large, "median of the steps"),
        ("GPU memory", "peak_gpu_memory_gb", "{:.1f} GB".format, "peak of any GPU"),
    ]
    return figure_row((name, text(figures[key]), beside or "") for name, key, text, beside in shown if key in figures)


def _plural(count: float | None, what: str) -> str:
    return "" if count is None else f"{count:,} {what}" + ("" if count == 1 else "s")


def _large(value: float) -> str:
    """From 10,000 on, three digits and a metric prefix: 12.3 G."""
    if value < 1e4:
        return f"{value:,.0f}"
    power = min(4, int(math.log10(value)) // 3)
    scaled = float(f"{value:.3g}") / 1000**power
    if scaled >= 1000 and power < 4:
        scaled, power = scaled / 1000, power + 1
    return f"{scaled:,.{max(0, 2 - int(math.log10(scaled)))}f} {' kMGT'[power]}"
