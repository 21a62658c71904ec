"""The page of a comparison: the curves of all runs on top of each other, and the tables; made as a loss chart is."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.pipelines.compare.runs import ComparedRun
from kfp_osft.pipelines.compare.table import Comparison, as_html
from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.pages.theme import DARK, LIGHT, chart_config
from kfp_osft.shared.training.metrics import number
from kfp_osft.stages.render_loss_chart.chart_data import PANEL_FIELDS, drawn_datasets, is_drawable, thin
from kfp_osft.stages.render_loss_chart.chart_spec import (
    color_and_shape,
    loss_axis,
    named_data,
    small_panel,
    stacked_spec,
    step_axis,
)
from kfp_osft.stages.render_loss_chart.html_page import Drawing, html_page

# Points of all curves, and of those that the pointer stops at: at most 1 MB besides the 0.9 MB of Vega.
_DRAWN, _STOPS = 8000, 1500
# Of a name in the legend.
_LONGEST_NAME = 30
# After Okabe and Ito (2008), the first of them far apart; darker on white and lighter on black than these are.
_LIGHT = ("#0072b2", "#d55e00", "#007a5a", "#b0568f", "#8a6d00", "#3f3f9f", "#2a8fc4", "#5d6675")
_DARK = ("#56b4e9", "#f2a13c", "#4fd1a5", "#e79bc8", "#e6d14a", "#a9a9ff", "#b5dcfa", "#c3c9d4")


class _Curve(NamedTuple):
    name: str
    rows: list[dict]
    validations: list[dict]


def write_comparison(runs: Sequence[ComparedRun], tables: Comparison, path: Path) -> None:
    """Writes a comparison as one self-contained HTML file, whole or not at all.

    The curves are smoothed as that of a loss chart. They are drawn over the steps, or over the samples where the runs
    have batches of different sizes.
    """
    drawable = [run for run in runs if is_drawable(run.steps)]
    missing = [run.name for run in runs if run not in drawable]
    notes = [f"There is no curve of {', '.join(missing)}: no table of steps, or fewer than two."] if missing else []
    if tables.caution:
        notes.append(tables.caution)
    names = [run.name for run in runs]
    shown = (("What differs", tables.differences), ("What came out", tables.results))
    page = html_page(
        f"Comparison of {len(runs)} trainings",
        "" if tables.differences else "Nothing is known in which they differ.",
        notes,
        "",
        _drawing(drawable) if drawable else None,
        "".join(as_html(caption, names, rows) for caption, rows in shown if rows),
    )
    with replacing_file(path) as unfinished:
        unfinished.write_bytes(page.encode())


def _drawing(runs: Sequence[ComparedRun]) -> Drawing:
    over_samples = _have_different_batches(runs)
    names = _legend_names([run.name for run in runs])
    curves = [_curve(run, name, over_samples, _DRAWN // len(runs)) for run, name in zip(runs, names, strict=True)]
    axis = "Samples" if over_samples else "Step"
    stops = _stops(curves)
    series = list(zip(_LIGHT, _DARK, strict=True)) * (1 + len(curves) // len(_LIGHT))
    keys = [f"loss{at}" for at in range(len(curves))]
    return Drawing(
        _spec(curves, axis),
        stops,
        axis,
        figures=[(curve.name, key, "loss") for curve, key in zip(curves, keys, strict=True)],
        dots=[(0, key) for key in keys],
        optional=keys,
        note="Each line is the rolling median of a training's losses, diamonds are validation losses.",
        light=chart_config(LIGHT, [light for light, _ in series]),
        dark=chart_config(DARK, [dark for _, dark in series]),
    )


def _have_different_batches(runs: Sequence[ComparedRun]) -> bool:
    """Whether a step of one run is another amount of training than a step of another, and the samples are known."""
    each = [_samples(run.steps) for run in runs]
    if any(math.isnan(samples[-1]) for samples in each):
        return False
    return len({round(samples[-1] / len(samples)) for samples in each}) > 1


def _samples(steps: Sequence[dict]) -> list[float]:
    """The samples seen after each step."""
    return list(accumulate(number(step.get("num_samples")) for step in steps))


def _curve(run: ComparedRun, name: str, over_samples: bool, most: int) -> _Curve:
    datasets = drawn_datasets(run.steps)
    place = dict(zip((step["step"] for step in run.steps), _samples(run.steps), strict=True)) if over_samples else {}
    rows = [
        {key: value for key, value in row.items() if key in ("step", "smoothed", *PANEL_FIELDS)}
        for row in thin(datasets["steps"], max(11, most))
    ]
    for row in (*rows, *datasets["validations"]):
        row["step"] = place.get(row["step"], row["step"])
    return _Curve(name, rows, datasets["validations"])


def _legend_names(names: Sequence[str]) -> list[str]:
    """The ends of long names, where these tell the runs apart."""
    short = [name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}" for name in names]
    return short if len(set(short)) == len(short) else list(names)


def _stops(curves: Sequence[_Curve]) -> list[dict]:
    """For each place that the pointer stops at, the loss of each run there, which is that of its last step before."""
    places = sorted({row["step"] for curve in curves for row in curve.rows})
    if len(places) > _STOPS:
        # Both ends are among them: the zoom goes from the first to the last.
        places = [places[(len(places) - 1) * at // (_STOPS - 1)] for at in range(_STOPS)]
    steps = [[row["step"] for row in curve.rows] for curve in curves]
    rows = []
    for place in places:
        row: dict[str, Any] = {"step": place}
        for at, (curve, own) in enumerate(zip(curves, steps, strict=True)):
            inside = own[0] <= place <= own[-1]
            row[f"loss{at}"] = curve.rows[bisect_right(own, place) - 1].get("smoothed") if inside else None
        rows.append(row)
    return rows


def _spec(curves: Sequence[_Curve], axis: str) -> dict[str, Any]:
    import altair as alt

    names = [curve.name for curve in curves]
    color, _ = color_and_shape(dict.fromkeys(names, "stroke"), names)
    fields = [field for field in PANEL_FIELDS if any(field in curve.rows[0] for curve in curves)]
    axes = [step_axis(at == len(fields), axis) for at in range(len(fields) + 1)]
    datasets = {f"run{at}": curve.rows for at, curve in enumerate(curves)}
    datasets |= {f"validations{at}": curve.validations for at, curve in enumerate(curves) if curve.validations}

    def lines(x, field: str, width: float) -> list[Any]:
        return [
            named_data(f"run{at}", curve.name)
            .mark_line(strokeWidth=width, strokeDash=_dash(at))
            .encode(x=x, color=color if field == "smoothed" else color.legend(None))
            for at, curve in enumerate(curves)
            if field in curve.rows[0]
        ]

    y = loss_axis("smoothed")
    panels = [[line.encode(y=y) for line in lines(axes[0], "smoothed", 2)]]
    panels[0] += [
        named_data(f"validations{at}", curve.name)
        .mark_point(filled=True, shape="diamond", size=60, opacity=1)
        .encode(x=axes[0], y="loss:Q", color=color)
        for at, curve in enumerate(curves)
        if curve.validations
    ]
    charts = [
        alt.layer(*panels[0]),
        *(small_panel(field, [], lines(x, field, 1.25)) for x, field in zip(axes[1:], fields, strict=True)),
    ]
    ends = [row["step"] for curve in curves for row in (curve.rows[0], curve.rows[-1])]
    return stacked_spec(charts, datasets, 600, min(ends), max(ends), max(len(curve.rows) for curve in curves))


def _dash(at: int) -> list[int]:
    """Runs that have the color of another differ from it in their dashes."""
    return [[1, 0], [6, 3], [2, 3]][at // len(_LIGHT) % 3]
