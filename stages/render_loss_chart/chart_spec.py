"""The loss chart as Altair describes it: the Vega-Lite specification."""

import json
import math
from collections.abc import Sequence
from typing import Any

from kfp_osft.stages.render_loss_chart.chart_data import PANEL_FIELDS, drawn_datasets, is_drawable, smoothing_window

# For each panel below the loss: its heading and the axis format (a Vega expression of datum.value). All axes start at
# 0, so that a change looks as large as it is: noise of 2 % in the speed does not look like a drop.
_PANELS = {
    "lr": ("Learning rate", "datum.value == 0 ? '0' : format(datum.value, '.2~e')"),
    "grad_norm": ("Gradient norm", "format(datum.value, '.3~g')"),
    "tokens_per_second": ("Tokens per second", "format(datum.value, '.3~s')"),
}
#: Pixels right of the plot for the label of the final loss, or of an epoch that begins there.
RIGHT_MARGIN = 56
# Resumptions in the legend.
_MOST_NAMED = 2


def chart_spec(steps: list[dict], width: int, best_step: int | None = None) -> dict:
    """The Vega-Lite specification with its datasets, without config and title.

    Steps that are not drawable give an empty chart, which can still have a title.

    Args:
        width: of the plot, in pixels, without the labels of the axes.
        best_step: step of the best checkpoint, to be marked.
    """
    import altair as alt

    if not is_drawable(steps):
        empty = alt.Chart(alt.InlineData([{}])).mark_point(opacity=0)
        return empty.properties(width=width, height=1).to_dict()
    datasets = drawn_datasets(steps)
    fields = [field for field in PANEL_FIELDS if field in datasets["steps"][0]]
    axes = [step_axis(lowest=at == len(fields)) for at in range(len(fields) + 1)]
    loss = _loss_panel(alt, axes[0], datasets, smoothing_window(len(steps)), best_step)
    small = [
        small_panel(field, [_epoch_rules(alt, x, above=0)], [_named(alt, "steps").mark_line(style="panel").encode(x=x)])
        for x, field in zip(axes[1:], fields, strict=False)
    ]
    first, last = datasets["steps"][0]["step"], datasets["steps"][-1]["step"]
    return stacked_spec([loss, *small], datasets, width, first, last, len(datasets["steps"]))


def stacked_spec(
    panels: Sequence[Any], datasets: dict[str, list[dict]], width: int, first: float, last: float, points: int
) -> dict:
    """The specification of panels below each other over one axis, which the page's script can zoom.

    Args:
        panels: Altair charts, the tall one first.
        datasets: rows by the name under which the panels refer to them.
        width: of the plot, in pixels.
        first, last: ends of the axis.
        points: number of points between them.
    """
    import altair as alt

    heights = [270, *[64] * (len(panels) - 1)]
    charts = [panel.properties(width=width, height=height) for panel, height in zip(panels, heights, strict=True)]
    density = points / (last - first + 1)
    chart = (
        alt.vconcat(*charts, spacing=14)
        .resolve_scale(x="shared")
        .add_params(
            alt.param(name="x0", value=first),
            alt.param(name="x1", value=last),
            # 1 for up to 60 points in view, towards 0 for thousands
            alt.param(name="sparse", expr=f"min(1, 60 / (1 + (x1 - x0) * {density:.4g}))"),
        )
    )
    return {**chart.to_dict(), "datasets": datasets}


def step_axis(lowest: bool, title: str = "Step"):
    """The axis of the steps, visible in the lowest panel only."""
    import altair as alt

    scale = alt.Scale(domainMin=alt.ExprRef("x0"), domainMax=alt.ExprRef("x1"), nice=False, zero=False)
    axis = alt.Axis(
        labels=lowest,
        ticks=lowest,
        domain=lowest,
        title=title if lowest else None,
        format=",d",
        # No more ticks than steps.
        tickCount=alt.ExprRef("min(x1 - x0, max(4, floor(width / 90)))"),
    )
    return alt.X("step:Q", scale=scale, axis=axis)


def _named(alt, name: str):
    """A chart of a dataset's rows within the zoom, so that the y scales fit what is visible."""
    return alt.Chart(alt.NamedData(name)).transform_filter("datum.step >= x0 && datum.step <= x1")


def named_data(data: str, name: str):
    """A chart of a dataset's rows within the zoom, with their name in the legend, as a constant column: Altair has no
    legend for a constant."""
    import altair as alt

    return _named(alt, data).transform_calculate(series=json.dumps(name))


def loss_axis(field: str = "loss"):
    """The axis of the loss, which does not begin at 0; the page's script makes its scale logarithmic."""
    import altair as alt

    scale = alt.Scale(zero=False, nice=False, padding=20)
    return alt.Y(f"{field}:Q", scale=scale, axis=alt.Axis(title=None, tickCount=6))


def _loss_panel(alt, x, datasets: dict, window: int, best_step: int | None):
    y = loss_axis()
    drawn = {
        "each step": "circle",
        f"rolling median of {window} steps" if window > 1 else "line between them": "stroke",
        "validation loss": "diamond",
        f"best checkpoint, step {best_step:,}" if best_step is not None else "best checkpoint": "M0,-1V1",
        "NaN or infinite": "square",
        _resumed_name(datasets["resumed"]): "M0,-1V1",
    }
    names = list(drawn)
    marked = [best_step is not None, bool(datasets["broken"]), bool(datasets["resumed"])]
    shown = [True, True, bool(datasets["validations"]), *marked]
    color, shape = color_and_shape(drawn, [name for name, is_shown in zip(names, shown, strict=True) if is_shown])
    points = named_data("steps", names[0]).mark_point(
        filled=True,
        strokeWidth=0,
        size=alt.ExprRef("12 + 38 * sqrt(sparse)"),
        opacity=alt.ExprRef("0.22 + 0.68 * sqrt(sparse)"),
    )
    smoothed = named_data("steps", names[1]).mark_line(strokeWidth=2.25)
    layers = [
        points.encode(x=x, y=y, color=color, shape=shape),
        smoothed.encode(x=x, y="smoothed:Q", color=color),
    ]
    if datasets["broken"]:
        layers.insert(0, _broken_layer(alt))
    if datasets["epochs"]:
        label = _named(alt, "epochs").mark_text(style="epoch-label", align="left", dx=4)
        layers = [_epoch_rules(alt, x, above=5), *layers, label.encode(x=x, y=alt.value(-8), text="label:N")]
    if best_step is not None:
        datasets["best"] = [{"step": best_step}]
    for name, series, is_shown in (("best", names[3], marked[0]), ("resumed", names[5], marked[2])):
        if is_shown:
            rule = named_data(name, series).mark_rule(style=name)
            layers.append(rule.encode(x=x, y=alt.value(0), y2=alt.value("height"), color=color))
    halo, *marks = _marked_layers(alt, x)
    if not datasets["validations"]:
        return alt.layer(*layers, halo, *marks)
    validations = named_data("validations", names[2])
    dashes = validations.mark_line(strokeWidth=1.25, strokeDash=[4, 3]).encode(x=x, y="loss:Q", color=color)
    diamonds = validations.mark_point(filled=True, size=70, opacity=1)
    # The halo must not hide one of the few diamonds.
    return alt.layer(*layers, dashes, halo, diamonds.encode(x=x, y="loss:Q", color=color, shape=shape), *marks)


def _resumed_name(resumed: Sequence[dict]) -> str:
    if not resumed:
        return "resumed"
    steps = [f"{math.floor(each['step']):,}" for each in resumed]
    if len(steps) > _MOST_NAMED:
        return f"resumed {len(steps)} times"
    return f"resumed after step{'' if len(steps) == 1 else 's'} {' and '.join(steps)}"


def color_and_shape(series: dict[str, str], shown: Sequence[str]):
    """The encodings that give each series its color and its symbol, with the legend above the loss.

    Args:
        series: symbol by name, in the order of the configuration's colors.
        shown: those in the legend.
    """
    import altair as alt

    # Pixels of the title, of a symbol with the space around it, and of a letter.
    needed = round(45 + sum(34 + 6 * len(name) for name in shown)) - RIGHT_MARGIN
    legend = alt.Legend(
        title="Loss",
        titleOrient="left",
        orient="top",
        direction="horizontal",
        columns=alt.ExprRef(f"width < {needed} ? 1 : {len(shown)}"),
        offset=6,
        symbolOpacity=1,
        labelLimit=0,
        values=list(shown),
    )
    names = list(series)
    return (
        alt.Color("series:N", scale=alt.Scale(domain=names), legend=legend),
        alt.Shape("series:N", scale=alt.Scale(domain=names, range=list(series.values())), legend=legend),
    )


def _broken_layer(alt):
    """The intervals without a finite loss."""
    # Both ends are clipped to the zoom, which they would otherwise widen.
    spans = (
        alt.Chart(alt.NamedData("broken"))
        .transform_filter("datum.to >= x0 && datum.from <= x1")
        .transform_calculate(begin="max(datum.from, x0)", end="min(datum.to, x1)")
    )
    areas = spans.mark_rect(style="broken")
    return areas.encode(x="begin:Q", x2="end:Q", y=alt.value(0), y2=alt.value("height"))


def _marked_layers(alt, x):
    """The lowest and the final loss: the halo that separates their labels from the points, rings, and labels."""
    edge = "scale('x', datum.step) > width - 70 ? {} : scale('x', datum.step) < 70 ? {} : {}"
    text = {
        "align": alt.ExprRef("datum.place == 'right' ? 'left' : " + edge.format("'right'", "'left'", "'center'")),
        "dx": alt.ExprRef("datum.place == 'right' ? 11 : " + edge.format(-9, 9, 0)),
        # Vega puts the first of several lines at the point; moving up by half the others' height centers the text.
        "dy": alt.ExprRef(
            r"datum.place == 'right' ? 7 - 7 * length(split(datum.label, '\n')) : datum.place == 'below' ? 15 : -14"
        ),
        "baseline": "middle",
        "lineBreak": "\n",
        "lineHeight": 14,
    }
    marked = _named(alt, "marked")
    rings = marked.mark_point(style="marked", filled=False, size=90, strokeWidth=2)
    return (
        marked.mark_text(style="marked-halo", **text).encode(x=x, y="loss:Q", text="label:N"),
        rings.encode(x=x, y="loss:Q"),
        marked.mark_text(style="marked-label", **text).encode(x=x, y="loss:Q", text="label:N"),
    )


def small_panel(field: str, behind: Sequence[Any], lines: Sequence[Any]):
    """A panel below the loss: its lines over one axis from 0 on, with the field's heading.

    Args:
        field: one of PANEL_FIELDS.
        behind: layers behind the lines.
        lines: layers that have no y yet.
    """
    import altair as alt

    heading, label = _PANELS[field]
    axis = alt.Axis(title=None, tickCount=3, labelExpr=label)
    y = alt.Y(f"{field}:Q", scale=alt.Scale(zero=True, nice=False, padding=5), axis=axis)
    title = alt.TitleParams(heading, fontSize=13, frame="group", offset=5)
    return alt.layer(*behind, *(line.encode(y=y) for line in lines), title=title)


def _epoch_rules(alt, x, above: int):
    # Not at the left edge, where a line would look like an axis.
    rules = _named(alt, "epochs").transform_filter("datum.step > x0").mark_rule(style="epoch")
    return rules.encode(x=x, y=alt.value(-above), y2=alt.value("height"))
