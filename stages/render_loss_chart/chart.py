"""The loss chart: one self-contained HTML file, and the same chart as a PNG.

Altair describes the chart; vl-convert-python supplies Vega, Vega-Lite and Vega-Embed, which are embedded in the page.
KFP shows an HTML artifact through srcdoc in an iframe with sandbox="allow-scripts": scripts run, but there is no
network, localStorage or download, so the page uses none of these. A script of ours (chart_page.py) follows the width
and the color scheme, zooms, and shows the values under the pointer: Vega-Lite has no width "container" for stacked
charts.
"""

import html
import json
import math
import textwrap
from functools import cache
from pathlib import Path

from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.training.metrics import summarize
from kfp_osft.stages.render_loss_chart.chart_data import chart_notes, is_drawable, loss_text
from kfp_osft.stages.render_loss_chart.chart_page import DRAWING, SCRIPT, STYLE
from kfp_osft.stages.render_loss_chart.chart_spec import (
    DARK,
    FONT,
    LIGHT,
    RIGHT_MARGIN,
    chart_config,
    chart_spec,
    vega_lite_version,
)

_PNG_WIDTH = 860  # pixels of the plot
_PNG_SCALE = 1.5


def write_chart_page(steps: list[dict], path: Path, *, title: str, subtitle: str) -> None:
    """Writes the chart of a training as one HTML file of at most 2 MB, whole or not at all.

    The same input gives the same bytes. If there is nothing to draw (no steps, a single one, no finite loss), the page
    says so instead.

    Args:
        steps: what training.metrics.read_steps or read_table returns; step and loss are required, other fields are
            drawn if present.
        path: the file to write; its folder must exist.
        title: plain text, such as the model's name; markup in it is escaped.
        subtitle: plain text, such as data, unfreeze rank ratio, steps and wall-clock time.
    """
    page = _page(steps, title, subtitle)
    with replacing_file(path) as unfinished:
        unfinished.write_bytes(page.encode())


def write_chart_png(steps: list[dict], path: Path, *, title: str, subtitle: str) -> None:
    """Writes the same chart as a PNG, about 1,400 pixels wide and in light colors, for READMEs and chats."""
    import vl_convert

    spec = chart_spec(steps, width=_PNG_WIDTH)
    below = [line for text in (subtitle, *chart_notes(steps)) for line in textwrap.wrap(text, 130)]
    spec["title"] = {"text": textwrap.wrap(title, 84) or "", "subtitle": below}
    spec["config"] = chart_config(LIGHT)
    spec["padding"] = 24
    png = vl_convert.vegalite_to_png(json.dumps(spec), vl_version=vega_lite_version(), scale=_PNG_SCALE)
    with replacing_file(path) as unfinished:
        unfinished.write_bytes(png)


def _page(steps: list[dict], title: str, subtitle: str) -> str:
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in chart_notes(steps))
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        f"<title>{html.escape(title)}</title>\n<style>\n",
        f":root {{ color-scheme: light dark; {_css_colors(LIGHT)} }}\n",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_css_colors(DARK)} }} }}\n",
        f"body {{ font-family: {FONT}; }}\n{STYLE}</style>\n</head>\n<body>\n",
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>\n",
        f'<section id="notes">{notes}</section>\n' if notes else "",
        _figures(steps),
        DRAWING + _scripts(steps) if is_drawable(steps) else "",
        "</body>\n</html>\n",
    ]
    return "".join(parts)


def _css_colors(colors: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {value}" for name, value in colors.items())


def _figures(steps: list[dict]) -> str:
    """The row of figures above the chart, as HTML."""
    if not steps:
        return ""
    figures = summarize(steps)
    lowest = next((step["step"] for step in steps if step.get("loss") == figures.get("lowest_loss")), None)
    perplexity = figures.get("final_perplexity")
    tokens = figures.get("tokens")
    shown = [
        ("Final loss", "final_loss", loss_text, perplexity and f"perplexity {loss_text(perplexity)}"),
        ("Lowest loss", "lowest_loss", loss_text, f"at step {lowest:,}" if lowest is not None else ""),
        ("Validation loss", "validation_loss", loss_text, "last logged"),
        ("Steps", "steps", "{:,}".format, _plural(figures.get("epochs"), "epoch")),
        ("Training time", "training_seconds", duration_text, "sum over the steps"),
        ("Tokens/second", "median_tokens_per_second", _large, tokens and f"{_large(tokens)} in total"),
        ("GPU memory", "peak_gpu_memory_gb", "{:.1f} GB".format, "peak of any GPU"),
    ]
    cells = [
        f"<div><dt>{name}</dt><dd>{text(figures[key])}<small>{beside or ''}</small></dd></div>"
        for name, key, text, beside in shown
        if key in figures
    ]
    return f"<dl>{''.join(cells)}</dl>"


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


def _scripts(steps: list[dict]) -> str:
    spec = chart_spec(steps, width=600)
    rows = spec["datasets"].pop("steps")
    spec["padding"] = {"left": 0, "right": 12, "top": 2, "bottom": 2}
    data = {
        "spec": spec,
        # By column: repeating the names in every row would double the size.
        "columns": {key: [row[key] for row in rows] for key in rows[0]},
        "count": len(steps),
        "margin": RIGHT_MARGIN,
        "light": chart_config(LIGHT),
        "dark": chart_config(DARK),
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"<script>{_vega()}</script>\n<script>\n((DATA) => {{{SCRIPT}}})({text});\n</script>\n"


@cache
def _vega() -> str:
    import vl_convert

    # Its stub requires `snippet`, which is optional.
    bundle = vl_convert.javascript_bundle(vl_version=vega_lite_version())  # pyright: ignore[reportCallIssue]
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise RuntimeError("the JavaScript bundle of vl-convert-python cannot be embedded in a <script> element")
    return bundle
