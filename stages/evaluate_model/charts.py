"""The charts of an evaluation's page as Altair describes them, and the script that draws them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kfp_osft.shared.pages.page import script_data, vega_bundle
from kfp_osft.shared.pages.theme import DARK, LIGHT, chart_config
from kfp_osft.stages.evaluate_model.comparison import TASK, Compared

# Draws each chart at the width of its element, in the colors of the reader's scheme.
_SCRIPT = """
  const { charts, light, dark } = DATA;
  const scheme = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  async function draw() {
    const config = scheme.matches ? dark : light;
    for (const [id, spec] of Object.entries(charts)) {
      const options = { mode: "vega-lite", renderer: "svg", actions: false };
      await vegaEmbed("#" + id, { ...spec, config }, options);
    }
    root.dataset.chart = "drawn";
  }
  const failed = (error) => { root.dataset.chart = "failed"; console.error(error); };
  scheme.addEventListener("change", () => draw().catch(failed));
  draw().catch(failed);
"""
_ROW = 26
# Colors of what was learnt and what was kept.
_SERIES = ("validation", "point")


def losses_chart(figures: Sequence[Compared]) -> dict[str, Any] | None:
    """A line from the base model's loss to the tuned one's for each set of rows or texts; None without a loss."""
    return _dumbbells([each for each in figures if each.figure == "loss"], "loss, nats per token", ".2f")


def scores_chart(figures: Sequence[Compared]) -> dict[str, Any] | None:
    """The same for exact match and benchmarks, from 0 to 1; None without any."""
    scores = [each for each in figures if each.figure != "loss" and 0 <= min(each.before, each.after) <= 1]
    return _dumbbells(scores, "score", ".0%", domain=(0, 1))


def chart_scripts(charts: Mapping[str, Mapping[str, Any]]) -> str:
    """The <script> elements that draw the charts, each into the element with its name as id."""
    if not charts:
        return ""
    light, dark = (chart_config(colors, [colors[name] for name in _SERIES]) for colors in (LIGHT, DARK))
    data = {"charts": charts, "light": light, "dark": dark}
    return f"<script>{vega_bundle()}</script>\n<script>\n((DATA) => {{{_SCRIPT}}})({script_data(data)});\n</script>\n"


def responsive(chart: Any) -> dict[str, Any]:
    """A chart as a specification that fills the width of its element."""
    spec = chart.to_dict()
    spec["width"] = "container"
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec


def _dumbbells(
    figures: Sequence[Compared], title: str, number: str, domain: tuple[float, float] | None = None
) -> dict[str, Any] | None:
    figures = [each for each in figures if math.isfinite(each.before) and math.isfinite(each.after)]
    if not figures:
        return None
    import altair as alt

    rows = [
        {
            "name": each.name if each.figure in ("loss", "exact match") else f"{each.name}, {each.figure}",
            "kind": "learnt" if each.kind == TASK else "kept",
            "before": each.before,
            "after": each.after,
            "change": "" if each.change is None else f"{each.change:+.1%}",
        }
        for each in figures
    ]
    x = alt.Scale(domain=domain) if domain else alt.Scale(zero=False, nice=True, padding=20)
    y = alt.Y("name:N", sort=None, axis=alt.Axis(title=None, labelLimit=260, minExtent=170, maxExtent=270))
    color = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=["learnt", "kept"]),
        legend=alt.Legend(title=None, orient="top", symbolType="circle", symbolOpacity=1),
    )
    tooltip = [
        alt.Tooltip("name:N", title="measured on"),
        alt.Tooltip("before:Q", title="base", format=number),
        alt.Tooltip("after:Q", title="tuned", format=number),
        alt.Tooltip("change:N"),
    ]
    base = alt.Chart(alt.InlineData(rows)).encode(y=y, color=color, tooltip=tooltip)
    before = alt.X("before:Q", scale=x, axis=alt.Axis(title=title, format=number, grid=True, tickCount=8))
    rules = base.mark_rule(strokeWidth=3, opacity=0.55).encode(x=before, x2="after:Q")
    rings = base.mark_point(filled=False, size=70, strokeWidth=2).encode(x=before)
    dots = base.mark_point(filled=True, size=95, opacity=1).encode(x=alt.X("after:Q", scale=x))
    return responsive(alt.layer(rules, rings, dots).properties(height=_ROW * len(rows)))
