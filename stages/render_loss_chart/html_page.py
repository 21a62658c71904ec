"""One self-contained HTML page around a chart.

Altair describes the chart; vl-convert-python supplies Vega, Vega-Lite and Vega-Embed, which are embedded in the page.
A script of ours (chart_page.py) follows the width and the color scheme, zooms, and shows the values under the pointer:
Vega-Lite has no width "container" for stacked charts.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kfp_osft.shared.pages.page import framed_page, script_data, vega_bundle
from kfp_osft.shared.pages.theme import DARK, LIGHT, chart_config
from kfp_osft.stages.render_loss_chart.chart_page import DRAWING, SCRIPT, STYLE
from kfp_osft.stages.render_loss_chart.chart_spec import RIGHT_MARGIN


class Drawing(NamedTuple):
    """A chart, and what the page shows of the step under the pointer.

    Attributes:
        spec: of chart_spec.stacked_spec; its first panel is the tall one.
        rows: values by step; of all of them the same columns, step among them.
        axis: what the steps are called.
        figures: heading, column and kind (loss, power or whole) of each value to show.
        dots: panel and column of each value that gets a dot.
        optional: columns of which a step need not have a value; the others are shown as not finite then.
        note: a line below the chart.
        light, dark: the configurations.
    """

    spec: dict[str, Any]
    rows: Sequence[Mapping[str, Any]]
    axis: str
    figures: Sequence[tuple[str, str, str]]
    dots: Sequence[tuple[int, str]]
    optional: Sequence[str] = ()
    note: str = ""
    light: dict[str, Any] = chart_config(LIGHT)
    dark: dict[str, Any] = chart_config(DARK)


def html_page(
    title: str, subtitle: str, notes: Sequence[str], above: str, drawing: Drawing | None, below: str = ""
) -> str:
    """The page.

    Args:
        title, subtitle, notes: plain text; markup in it is escaped.
        above, below: HTML that comes before and after the chart.
        drawing: the chart, if there is one.
    """
    told = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    parts = [
        f'<section id="notes">{told}</section>\n' if told else "",
        above,
        DRAWING if drawing else "",
        below,
        _scripts(drawing) if drawing else "",
    ]
    return framed_page(title, subtitle, "".join(parts), STYLE)


def _scripts(drawing: Drawing) -> str:
    spec = drawing.spec | {"padding": {"left": 0, "right": 12, "top": 2, "bottom": 2}}
    data = {
        **drawing._asdict(),
        "spec": spec,
        # By column: repeating the names in every row would double the size.
        "columns": {key: [row[key] for row in drawing.rows] for key in drawing.rows[0]},
        "margin": RIGHT_MARGIN,
    }
    del data["rows"]
    return f"<script>{vega_bundle()}</script>\n<script>\n((DATA) => {{{SCRIPT}}})({script_data(data)});\n</script>\n"
