"""The loss chart: one HTML file that needs nothing but itself, and the same chart as a PNG.

Altair describes the chart, vl-convert-python supplies Vega, Vega-Lite and Vega-Embed, which are written into
the page. KFP shows an HTML artifact by srcdoc in an iframe with sandbox="allow-scripts": scripts run, and
nothing else does (no network, no localStorage, no download), so the page uses nothing else. A script of ours
follows the width and the color scheme, zooms, and shows the figures under the pointer: Vega-Lite has no width
"container" for stacked charts.
"""

import html
import json
import math
import textwrap
from bisect import bisect_left, insort
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

from kfp_osft.shared.training_metrics import number, summarize, warnings_of, write_whole

_DRAWN = 6000  # rows: at most 0.4 MB beside the 0.9 MB of Vega, and smooth under the pointer
_PNG_WIDTH = 860  # pixels of the plot, doubled when written
# What is drawn below the loss: field, heading, format of the axis (an expression of Vega, on datum.value).
_PANELS = [
    ("lr", "Learning rate", "datum.value == 0 ? '0' : format(datum.value, '.2~e')"),
    ("grad_norm", "Gradient norm", "format(datum.value, '.3~g')"),
    ("tokens_per_second", "Tokens per second", "format(datum.value, '.3~s')"),
]
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Blue, orange and their like of Okabe and Ito (2008), which people with any colour vision tell apart.
_LIGHT = {
    "page": "#ffffff",
    "raised": "#f5f6f8",
    "ink": "#1b1f27",
    "muted": "#5d6675",
    "line": "#e3e6eb",
    "point": "#56a3dc",
    "smoothed": "#0a4a86",
    "validation": "#d55e00",
    "panel": "#4c6a89",
    "alarm": "#b3261e",
}
_DARK = {
    "page": "#14171c",
    "raised": "#1e2229",
    "ink": "#eceff4",
    "muted": "#a0a9b8",
    "line": "#2c323b",
    "point": "#4796d2",
    "smoothed": "#b5dcfa",
    "validation": "#f2a13c",
    "panel": "#9db6d0",
    "alarm": "#ff8a80",
}


def render_loss_chart(steps: list[dict], path: Path, *, title: str, subtitle: str) -> None:
    """Writes the chart of a training as one HTML file of at most 2 MB, whole or not at all.

    The same input gives the same bytes. Where there is nothing to draw (no step, a single one, no finite
    loss), the page says so instead.

    Args:
        steps: what training_metrics.read_steps or read_table returns; step and loss are needed, the rest is
            drawn where it is.
        path: the file to write.
        title: plain text, such as the model and the data; markup in it is shown, never run.
        subtitle: plain text, such as the unfreeze rank ratio, steps and wall-clock.
    """
    write_whole(path, _page(steps, title, subtitle).encode())


def write_chart_png(steps: list[dict], path: Path, *, title: str, subtitle: str) -> None:
    """Writes the same chart as a still PNG, about 1,900 pixels wide and in light colors, for READMEs."""
    import vl_convert

    spec = _spec(steps, width=_PNG_WIDTH)
    below = [line for text in (subtitle, *_notes(steps)) for line in textwrap.wrap(text, 130)]
    spec["title"] = {"text": textwrap.wrap(title, 84) or "", "subtitle": below}
    spec["config"] = _config(_LIGHT)
    spec["padding"] = 24
    write_whole(path, vl_convert.vegalite_to_png(json.dumps(spec), vl_version=_vega_lite_version(), scale=2))


def thin(steps: list[dict], most: int = _DRAWN) -> list[dict]:
    """At most `most` of the steps, in order, such that no peak is lost.

    The steps are cut into stretches of equal length. Each keeps the steps with the smallest and the largest
    loss, gradient norm, tokens a second and learning rate, and the first whose loss is NaN or infinite; so do
    the first and the last step stay. Up to `most` steps come back as they are.

    Args:
        most: 11 or more.
    """
    if most < 11:
        raise ValueError(f"most is {most}; it must be 11 or more, what one stretch and both ends can keep")
    if len(steps) <= most:
        return list(steps)
    fields = ["loss", *(field for field, _, _ in _PANELS)]
    columns = [[number(step.get(field)) for step in steps] for field in fields]
    stretches = (most - 2) // (2 * len(fields) + 1)
    bounds = [len(steps) * at // stretches for at in range(stretches + 1)]
    kept = {0, len(steps) - 1}
    for begin, end in zip(bounds, bounds[1:]):
        for column in columns:
            valid = [at for at in range(begin, end) if column[at] == column[at]]
            if valid:
                kept.add(min(valid, key=column.__getitem__))
                kept.add(max(valid, key=column.__getitem__))
        kept.update([at for at in range(begin, end) if columns[0][at] != columns[0][at]][:1])
    return [steps[at] for at in sorted(kept)]


# ---- what is drawn, from the steps


def _notes(steps: list[dict]) -> list[str]:
    """What the page has to say instead of a chart or above it."""
    notes = warnings_of(steps)
    if len(steps) == 1:
        notes.append("The training had one step only: there is no course to draw.")
    return notes


def _drawable(steps: list[dict]) -> bool:
    return len(steps) > 1 and any(not math.isnan(number(step.get("loss"))) for step in steps)


def _window(count: int) -> int:
    """Steps the smoothed line looks at: odd, a 25th of the training, 5 to 501, not more than there are."""
    return min(501, max(5, count // 25 | 1), count - 1 | 1)


def _smoothed(losses: list[float], window: int) -> list[float]:
    """The median of `window` losses around each, less its saw-teeth; NaN where the loss is NaN.

    A median, as one outlier would lift a mean for the length of the window. Long ones jump from one loss to
    another, so the mean of a quarter of a window of medians is what is drawn; below 8 steps the medians
    themselves.

    At the beginning, where a loss falls steeply, a window is hardly wider than it fits on both sides. At the
    end, where a loss is flat, it is cut off.
    """
    valid = [at for at, loss in enumerate(losses) if loss == loss]
    values = [losses[at] for at in valid]
    medians: list[float] = []
    inside: list[float] = []
    begin = end = 0
    for low, high in _windows(len(values), window // 2):
        while end < high:
            insort(inside, values[end])
            end += 1
        while begin < low:
            del inside[bisect_left(inside, values[begin])]
            begin += 1
        middle = len(inside) // 2
        medians.append(inside[middle] if len(inside) % 2 else (inside[middle - 1] + inside[middle]) / 2)
    sums = [0.0, *accumulate(medians)]
    smooth = [math.nan] * len(losses)
    for at, median, (low, high) in zip(valid, medians, _windows(len(values), window // 8)):
        smooth[at] = median if high - low == 1 else (sums[high] - sums[low]) / (high - low)
    return smooth


def _windows(count: int, half: int) -> Iterator[tuple[int, int]]:
    for at in range(count):
        reach = min(half, at + half // 6)
        yield max(0, at - reach), min(count, at + reach + 1)


def _rows(steps: list[dict]) -> list[dict]:
    """The steps as the chart's rows: number, epoch from 1 on, loss and smoothed loss, the fields of the
panels."""
    losses = [number(step.get("loss")) for step in steps]
    smooth = _smoothed(losses, _window(len(steps)))
    fields = [field for field, _, _ in _PANELS]
    return [
        {"step": step["step"], "epoch": number(step.get("epoch")) + 1, "loss": loss, "smoothed": smoothed}
        | {field: number(step.get(field)) for field in fields}
        for step, loss, smoothed in zip(steps, losses, smooth)
    ]


def _epochs(rows: list[dict]) -> list[dict]:
    """Where each epoch begins; of many only every 2nd, 5th, 10th, 20th ... so that at most 8 are marked."""
    begins = [
        (row["step"], round(row["epoch"]))
        for before, row in zip([None, *rows], rows)
        if row["epoch"] == row["epoch"] and (before is None or row["epoch"] != before["epoch"])
    ]
    if len(begins) < 2:
        return []
    rounded = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    every = next(number for number in rounded if len(begins) <= 8 * number)
    kept = [(step, epoch) for step, epoch in begins if every == 1 or epoch % every == 0]
    return [{"step": step, "label": f"epoch {epoch:,}"} for step, epoch in kept]


def _validations(steps: list[dict]) -> list[dict]:
    """The steps after which a validation ran: mini-trainer repeats its value on all lines until the next one.

    One that ran at a step stands on that step's line with val_num_samples; one at the end of an epoch first
    on the next step's.
    """
    found, before = [], None
    for at, step in enumerate(steps):
        value = number(step.get("val_loss"))
        if not math.isnan(value):
            if "val_num_samples" in step:
                found.append({"step": step["step"], "loss": value})
            elif value != before:
                found.append({"step": steps[max(0, at - 1)]["step"], "loss": value})
            before = value
    return thin(found, 600)


def _broken(rows: list[dict]) -> list[dict]:
    """The stretches of steps whose loss is NaN or infinite, from half a step before to half a step after.

    Those nearer to each other than half a thousandth of the training are one, so that there are never too
    many to draw. The first one is labelled.
    """
    stretches: list[dict] = []
    near = (rows[-1]["step"] - rows[0]["step"]) / 2000
    for row in rows:
        if row["loss"] != row["loss"]:
            begin, end = row["step"] - 0.5, row["step"] + 0.5
            if stretches and begin - stretches[-1]["to"] <= near:
                stretches[-1]["to"] = end
            else:
                stretches.append({"from": begin, "to": end})
    if stretches:
        stretches[0]["label"] = "NaN"
    return stretches


def _marked(rows: list[dict]) -> list[dict]:
    """The lowest and the final loss with their labels; one label where they are the same step."""
    finite = [row for row in rows if row["loss"] == row["loss"]]
    lowest = min(finite, key=lambda row: row["loss"])
    final = finite[-1]
    name = "final" if final is rows[-1] else "last finite"
    if lowest is final:
        return [_mark(final, f"lowest and {name}", below=True)]
    return [_mark(lowest, "lowest", below=True), _mark(final, name, below=False)]


def _mark(row: dict, name: str, below: bool) -> dict:
    label = f"{name} {_loss_text(row['loss'])}"
    return {"step": row["step"], "loss": row["loss"], "label": label, "below": below}


def _loss_text(loss: float) -> str:
    return f"{loss:.3f}" if 0.1 <= abs(loss) < 1000 else f"{loss:.3g}"


def _datasets(steps: list[dict]) -> dict[str, list[dict]]:
    rows = _rows(steps)
    drawn = thin(rows)
    used = [key for key in drawn[0] if any(row[key] == row[key] for row in drawn)]
    return {
        "steps": [{key: _short(row[key]) for key in used} for row in drawn],
        "epochs": _epochs(rows),
        "validations": _validations(steps),
        "broken": _broken(rows),
        "marked": _marked(rows),
    }


def _short(value: float) -> float | None:
    """Five significant digits, more than a pixel shows; null for NaN, which JSON does not have."""
    if isinstance(value, int) or value != value:
        return value if value == value else None
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e9 else short


# ---- the chart, in Altair


def _spec(steps: list[dict], width: int) -> dict:
    """The Vega-Lite specification with its datasets; without config and title."""
    import altair as alt

    if not _drawable(steps):
        empty = alt.Chart(alt.InlineData([{}])).mark_point(opacity=0)
        return empty.properties(width=width, height=1).to_dict()
    datasets = _datasets(steps)
    first, last = datasets["steps"][0]["step"], datasets["steps"][-1]["step"]
    fields = [panel for panel in _PANELS if panel[0] in datasets["steps"][0]]
    axes = [_x(alt, lowest=at == len(fields)) for at in range(len(fields) + 1)]
    charts = [_loss_panel(alt, axes[0], datasets, _window(len(steps))).properties(width=width, height=270)]
    charts += [
        _small_panel(alt, x, *panel).properties(width=width, height=64) for x, panel in zip(axes[1:], fields)
    ]
    density = len(datasets["steps"]) / (last - first + 1)
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
    spec = chart.to_dict()
    spec["datasets"] = datasets
    return spec


def _x(alt, lowest: bool):
    """The steps' axis, which only the lowest panel shows."""
    scale = alt.Scale(domainMin=alt.ExprRef("x0"), domainMax=alt.ExprRef("x1"), nice=False, zero=False)
    axis = alt.Axis(
        labels=lowest,
        ticks=lowest,
        domain=lowest,
        title="Step" if lowest else None,
        format=",d",
        # No more ticks than steps, as there is nothing between two.
        tickCount=alt.ExprRef("min(x1 - x0, max(2, floor(width / 90)))"),
    )
    return alt.X("step:Q", scale=scale, axis=axis)


def _named(alt, name: str):
    """A chart of the rows of a dataset that lie within the zoom: so the y scales fit what is in view."""
    return alt.Chart(alt.NamedData(name)).transform_filter("datum.step >= x0 && datum.step <= x1")


def _loss_panel(alt, x, datasets: dict, window: int):
    scale = alt.Scale(zero=False, nice=False, padding=20)
    y = alt.Y("loss:Q", scale=scale, axis=alt.Axis(title=None, tickCount=6))
    names = ["each step", f"rolling median of {window} steps" if window > 1 else "line between them"]
    if datasets["validations"]:
        names.append("validation loss")
    shapes = ["circle", "stroke", "diamond"][: len(names)]
    legend = alt.Legend(
        title="Loss",
        titleOrient="left",
        orient="top",
        direction="horizontal",
        offset=6,
        symbolOpacity=1,
        labelLimit=0,
    )

    def series(data: str, name: str):
        # A constant column, as Altair takes no scale and no legend with a constant (alt.ColorDatum).
        return _named(alt, data).transform_calculate(series=json.dumps(name))

    color = alt.Color("series:N", scale=alt.Scale(domain=names), legend=legend)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    top, bottom = alt.value(0), alt.value("height")
    points = series("steps", names[0]).mark_point(
        filled=True,
        strokeWidth=0,
        size=alt.ExprRef("12 + 38 * sqrt(sparse)"),
        opacity=alt.ExprRef("0.22 + 0.68 * sqrt(sparse)"),
    )
    smoothed = series("steps", names[1]).mark_line(strokeWidth=2.25)
    layers = [
        points.encode(x=x, y=y, color=color, shape=shape),
        smoothed.encode(x=x, y="smoothed:Q", color=color),
    ]
    if datasets["broken"]:
        # Both ends are kept within the zoom, which would else be widened by them.
        spans = (
            alt.Chart(alt.NamedData("broken"))
            .transform_filter("datum.to >= x0 && datum.from <= x1")
            .transform_calculate(begin="max(datum.from, x0)", end="min(datum.to, x1)")
            .transform_calculate(left="datum.end > x1 - (x1 - x0) / 12")
            .transform_calculate(beside="datum.left ? datum.begin : datum.end")
        )
        layers.insert(0, spans.mark_rect(style="broken").encode(x="begin:Q", x2="end:Q", y=top, y2=bottom))
        label = spans.transform_filter("isValid(datum.label)").mark_text(
            style="broken-label",
            align=alt.ExprRef("datum.left ? 'right' : 'left'"),
            dx=alt.ExprRef("datum.left ? -5 : 5"),
        )
        layers.append(label.encode(x="beside:Q", y=alt.value(10), text="label:N"))
    if datasets["epochs"]:
        layers.insert(0, _epoch_rules(alt, x, above=5))
        label = _named(alt, "epochs").mark_text(style="epoch-label", align="left", dx=4)
        layers.append(label.encode(x=x, y=alt.value(-8), text="label:N"))
    # Labels stand out from the points by a halo; a validation's diamond, one of a few, stays above it.
    edge = "scale('x', datum.step) > width - 70 ? {} : scale('x', datum.step) < 70 ? {} : {}"
    text = {
        "align": alt.ExprRef(edge.format("'right'", "'left'", "'center'")),
        "dx": alt.ExprRef(edge.format(-9, 9, 0)),
        "dy": alt.ExprRef("datum.below ? 15 : -14"),
        "baseline": "middle",
    }
    marked = _named(alt, "marked")
    validations = series("validations", names[-1])
    if datasets["validations"]:
        dashes = validations.mark_line(strokeWidth=1.25, strokeDash=[4, 3])
        layers.append(dashes.encode(x=x, y="loss:Q", color=color))
    layers.append(marked.mark_text(style="marked-halo", **text).encode(x=x, y="loss:Q", text="label:N"))
    if datasets["validations"]:
        diamonds = validations.mark_point(filled=True, size=70, opacity=1)
        layers.append(diamonds.encode(x=x, y="loss:Q", color=color, shape=shape))
    rings = marked.mark_point(style="marked", filled=False, size=90, strokeWidth=2)
    layers.append(rings.encode(x=x, y="loss:Q"))
    layers.append(marked.mark_text(style="marked-label", **text).encode(x=x, y="loss:Q", text="label:N"))
    return alt.layer(*layers)


def _small_panel(alt, x, field: str, heading: str, label: str):
    axis = alt.Axis(title=None, tickCount=3, labelExpr=label)
    y = alt.Y(f"{field}:Q", scale=alt.Scale(zero=False, nice=False, padding=5), axis=axis)
    line = _named(alt, "steps").mark_line(style="panel").encode(x=x, y=y)
    title = alt.TitleParams(heading, fontSize=13, frame="group", offset=5)
    return alt.layer(_epoch_rules(alt, x, above=0), line, title=title)


def _epoch_rules(alt, x, above: int):
    # None at the left edge, where a line would look like an axis.
    rules = _named(alt, "epochs").transform_filter("datum.step > x0").mark_rule(style="epoch")
    return rules.encode(x=x, y=alt.value(-above), y2=alt.value("height"))


def _config(colors: dict[str, str]) -> dict:
    """Vega-Lite's configuration for one color scheme: all colors and type sizes are here."""
    text = {"font": _FONT, "color": colors["ink"], "fontSize": 12}
    return {
        "font": _FONT,
        "background": colors["page"],
        "view": {"stroke": None},
        "range": {"category": [colors["point"], colors["smoothed"], colors["validation"]]},
        "axis": {
            "domain": False,
            "ticks": False,
            "grid": True,
            "gridColor": colors["line"],
            "domainColor": colors["muted"],
            "tickColor": colors["muted"],
            "labelColor": colors["muted"],
            "labelFontSize": 11,
            "labelPadding": 6,
            "titleColor": colors["muted"],
            "titleFontSize": 11,
            "titleFontWeight": "normal",
        },
        "axisX": {"grid": False},
        "axisY": {"minExtent": 44, "maxExtent": 44},
        "legend": {
            "labelColor": colors["ink"],
            "labelFontSize": 12,
            "titleColor": colors["ink"],
            "titleFontSize": 13,
            "titleFontWeight": 600,
            "titlePadding": 12,
            "columnPadding": 18,
            "symbolSize": 90,
            "symbolStrokeWidth": 2.5,
        },
        "title": {
            "color": colors["ink"],
            "subtitleColor": colors["muted"],
            "fontSize": 19,
            "fontWeight": 600,
            "subtitleFontSize": 13,
            "subtitlePadding": 7,
            "anchor": "start",
            "offset": 18,
        },
        "style": {
            "panel": {"color": colors["panel"], "strokeWidth": 1.25},
            "epoch": {"color": colors["muted"], "strokeWidth": 1, "strokeDash": [2, 3], "opacity": 0.6},
            "epoch-label": {**text, "color": colors["muted"], "fontSize": 11},
            "marked": {"color": colors["ink"]},
            "marked-label": {**text, "fontWeight": 600},
            "marked-halo": {
                **text,
                "fontWeight": 600,
                "stroke": colors["page"],
                "strokeWidth": 4,
                "strokeJoin": "round",
            },
            "broken-label": {**text, "color": colors["alarm"], "fontSize": 11},
            "broken": {
                "color": colors["alarm"],
                "fillOpacity": 0.12,
                "stroke": colors["alarm"],
                "strokeOpacity": 0.35,
            },
        },
    }


# ---- the page


def _page(steps: list[dict], title: str, subtitle: str) -> str:
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(steps))
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        f"<title>{html.escape(title)}</title>\n<style>\n",
        f":root {{ color-scheme: light dark; {_css_colors(_LIGHT)} }}\n",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_css_colors(_DARK)} }} }}\n",
        f"body {{ font-family: {_FONT}; }}\n{_STYLE}</style>\n</head>\n<body>\n",
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>\n",
        f'<section id="notes">{notes}</section>\n' if notes else "",
        _figures(steps),
        _DRAWING + _scripts(steps) if _drawable(steps) else "",
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
        ("Final loss", "final_loss", _loss_text, perplexity and f"perplexity {_loss_text(perplexity)}"),
        ("Lowest loss", "lowest_loss", _loss_text, f"at step {lowest:,}" if lowest is not None else ""),
        ("Validation loss", "validation_loss", _loss_text, "last one logged"),
        ("Steps", "steps", "{:,}".format, _plural(figures.get("epochs"), "epoch")),
        ("Training time", "training_seconds", _duration, "sum of the steps"),
        ("Tokens/second", "median_tokens_per_second", _large, tokens and f"{_large(tokens)} in all"),
        ("GPU memory", "peak_gpu_memory_gb", "{:.1f} GB".format, "peak of one GPU"),
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
    """From 10,000 on three digits and the letter of the thousands: 12.3 G."""
    if value < 1e4:
        return f"{value:,.0f}"
    power = min(4, int(math.log10(value)) // 3)
    scaled = float(f"{value:.3g}") / 1000**power
    if scaled >= 1000 and power < 4:
        scaled, power = scaled / 1000, power + 1
    return f"{scaled:,.{max(0, 2 - int(math.log10(scaled)))}f} {' kMGT'[power]}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _scripts(steps: list[dict]) -> str:
    spec = _spec(steps, width=600)
    rows = spec["datasets"].pop("steps")
    spec["padding"] = {"left": 0, "right": 12, "top": 2, "bottom": 2}
    data = {
        "spec": spec,
        # Columns, as each name in every row would double the size.
        "columns": {key: [row[key] for row in rows] for key in rows[0]},
        "count": len(steps),
        "light": _config(_LIGHT),
        "dark": _config(_DARK),
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"<script>{_vega()}</script>\n<script>\n((DATA) => {{{_SCRIPT}}})({text});\n</script>\n"


@cache
def _vega() -> str:
    import vl_convert

    bundle = vl_convert.javascript_bundle(vl_version=_vega_lite_version())
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise RuntimeError("vl-convert-python: its JavaScript bundle cannot stand inside a <script> element")
    return bundle


def _vega_lite_version() -> str:
    """Vega-Lite's version as vl-convert names it (6.4), the one that this Altair writes for."""
    import altair

    return ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


_STYLE = """
* { box-sizing: border-box; }
body { margin: 0; padding: 20px 24px 16px; background: var(--page); color: var(--ink); font-size: 14px;
  line-height: 1.4; }
h1 { margin: 0; font-size: 20px; font-weight: 600; line-height: 1.25; overflow-wrap: anywhere; }
header p { margin: 3px 0 0; color: var(--muted); overflow-wrap: anywhere; }
#notes p { margin: 12px 0 0; padding: 9px 12px; border-left: 3px solid var(--alarm);
  background: var(--raised); border-radius: 0 4px 4px 0; max-width: 110ch; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(106px, 1fr)); gap: 12px;
  margin: 18px 0 0; max-width: 1250px; }
dt { color: var(--muted); font-size: 12px; }
dd { margin: 0; font-size: 17px; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
dd small { display: block; font-size: 12px; font-weight: 400; color: var(--muted); }
#bar { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 16px; margin: 18px 0 8px; }
#bar span { color: var(--muted); font-size: 12px; }
#zoom { flex: 1 1 200px; min-height: 27px; display: flex; align-items: center; }
#thinned { margin: 6px 0 0; color: var(--muted); font-size: 12px; }
#thinned:empty, #zoom [hidden] { display: none; }
fieldset { display: flex; align-items: center; margin: 0; padding: 0; border: 0; }
legend { float: left; padding: 0 8px 0 0; color: var(--muted); font-size: 12px; }
fieldset label { position: relative; }
fieldset input { position: absolute; opacity: 0; inset: 0; margin: 0; cursor: pointer; }
fieldset label span, button { display: inline-block; padding: 4px 11px; border: 1px solid var(--line);
  font: inherit; font-size: 12px; background: var(--page); color: var(--ink); cursor: pointer; }
#bar fieldset label span { color: var(--ink); }
fieldset label:first-of-type span { border-radius: 5px 0 0 5px; }
fieldset label:last-of-type span { border-radius: 0 5px 5px 0; border-left: 0; }
#bar fieldset input:checked + span { background: var(--ink); color: var(--page); border-color: var(--ink); }
fieldset input:focus-visible + span, button:focus-visible, #chart:focus-visible {
  outline: 2px solid var(--point); outline-offset: 2px; }
fieldset input:disabled + span { opacity: .45; cursor: not-allowed; }
button { border-radius: 5px; }
button[hidden] { display: none; }
#chart { position: relative; min-height: 560px; cursor: crosshair; touch-action: pan-y; user-select: none;
  -webkit-user-select: none; }
#view { overflow: hidden; }
#chart canvas { display: block; }
#over { position: absolute; inset: 0; pointer-events: none; overflow: hidden; }
#over > * { position: absolute; display: none; }
#line { width: 1px; background: var(--muted); }
#range { background: var(--point); opacity: .18; }
#over .dot { width: 9px; height: 9px; margin: -4.5px 0 0 -4.5px; border-radius: 50%;
  border: 2px solid var(--page); background: var(--ink); }
#tip { padding: 8px 11px; border: 1px solid var(--line); border-radius: 6px; background: var(--raised);
  box-shadow: 0 3px 12px rgb(0 0 0 / 18%); font-size: 12px; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
#tip b { display: block; margin-bottom: 3px; font-weight: 600; }
#tip div { display: flex; justify-content: space-between; gap: 18px; }
#tip div span:first-child { color: var(--muted); }
"""

_DRAWING = """
<div id="bar">
<div id="zoom"><span>Drag to zoom in, double-click to zoom out.</span><button hidden>Zoom out</button></div>
<fieldset><legend>Loss scale</legend>
<label><input type="radio" name="scale" value="linear" checked><span>Linear</span></label>
<label><input type="radio" name="scale" value="log"><span>Log</span></label></fieldset>
<button id="save" hidden>Save PNG</button>
</div>
<div id="chart" tabindex="0" role="img" aria-label="Loss, learning rate, gradient norm and tokens per second
 by step. The arrow keys walk through the steps."><div id="view"></div>
<div id="over"><div id="range"></div><div id="line"></div><div id="tip" role="status"></div></div></div>
<p id="thinned"></p>
<noscript>The chart is drawn by JavaScript, which is switched off here.</noscript>
"""

# Pointer, zoom, width and color scheme. The names of scales, signals and groups ("x", "concat_0_y",
# "concat_0_height", "concat_0_group") are those that Vega-Lite gives charts stacked over one x scale.
_SCRIPT = r"""
  "use strict";
  const { spec, columns, count, light, dark } = DATA;
  const by = (id) => document.getElementById(id);
  const [hint, out] = by("zoom").children;
  const chart = by("chart"), over = by("over"), tip = by("tip"), line = by("line"), range = by("range");
  const keys = Object.keys(columns), steps = columns.step;
  const rows = steps.map((_, at) => Object.fromEntries(keys.map((key) => [key, columns[key][at]])));
  const first = steps[0], last = steps[steps.length - 1];
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const panels = ["loss", "lr", "grad_norm", "tokens_per_second"].filter((key) => keys.includes(key));
  const dots = panels.map(() => {
    const dot = over.insertBefore(document.createElement("div"), tip);
    dot.className = "dot";
    return dot;
  });
  const validation = new Map(spec.datasets.validations.map((row) => [row.step, row.loss]));
  let view = null, drawing = 0, shown = [first, last], type = "linear", at = null, from = null;

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const whole = (value) => Math.round(value).toLocaleString("en");
  const power = (value) => (
    value === 0 ? "0" : value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e")
  );
  const round = (value) => (
    Math.abs(value) >= 0.1 && Math.abs(value) < 1000 ? value.toFixed(3) : power(value)
  );
  const figures = [
    ["Loss", "loss", round],
    ["Smoothed", "smoothed", round],
    ["Learning rate", "lr", power],
    ["Gradient norm", "grad_norm", round],
    ["Tokens per second", "tokens_per_second", whole],
  ];

  async function draw() {
    const turn = ++drawing;
    const config = scheme.matches ? dark : light;
    spec.datasets.steps = rows;
    spec.config = config;
    spec.vconcat[0].layer.forEach(({ encoding }) => {
      if (encoding.y && encoding.y.scale) encoding.y.scale.type = type;
    });
    for (const [name, value] of [["x0", shown[0]], ["x1", shown[1]]]) {
      spec.params.find((param) => param.name === name).value = value;
    }
    spec.vconcat.forEach((panel) => { panel.width = Math.max(120, chart.clientWidth - 64); });
    spec.vconcat[0].height = tall();
    const options = { mode: "vega-lite", renderer: "canvas", actions: false, tooltip: false };
    const drawn = await vegaEmbed("#view", spec, options);
    if (turn !== drawing) return drawn.finalize();
    if (view) view.finalize();
    view = drawn.view;
    await fit();
    document.documentElement.dataset.chart = "drawn";
    document.documentElement.dataset.plot = Math.round(view.width()) + "x" + tall();
  }

  // Vega-Lite names the height of a panel after it, but for a loss panel alone.
  const height = panels.length > 1 ? "concat_0_height" : "height";
  const tall = () => Math.round(clamp(chart.clientWidth * 0.23, 270, 420));

  // The plot takes what the axis labels leave of the page's width.
  async function fit() {
    if (!view) return;
    const width = Math.max(120, chart.clientWidth - places()[0].x - 20);
    if (Math.abs(width - view.width()) >= 1 || tall() !== view.signal(height)) {
      await view.width(width).signal(height, tall()).runAsync();
    }
    point(at);
  }

  // Where each panel lies on the canvas: Vega's groups, moved by its origin.
  function places() {
    const [left, top] = view.origin();
    return view.scenegraph().root.items[0].items
      .filter((mark) => /^concat_\d+_group$/.test(mark.name))
      .map((mark) => mark.items[0])
      .map((group) => ({ x: left + group.x, y: top + group.y, width: view.width(), height: group.height }));
  }

  const put = (element, left, top, width, height) => Object.assign(element.style, {
    display: "block", left: left + "px", top: top + "px",
    width: width == null ? "" : width + "px", height: height == null ? "" : height + "px",
  });

  function nearest(event) {
    const place = places()[0];
    const x = clamp(event.clientX - chart.getBoundingClientRect().left - place.x, 0, place.width);
    const step = view.scale("x").invert(x);
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle; else high = middle;
    }
    const found = step - steps[low] < steps[high] - step ? low : high;
    return clamp(found, steps.indexOf(shown[0]), steps.indexOf(shown[1]));
  }

  // Shows one row's figures beside a line through all panels; null hides them.
  function point(index) {
    at = index;
    if (index === null || !view) {
      for (const element of [line, tip, ...dots]) element.style.display = "none";
      return;
    }
    const row = rows[index], all = places(), bottom = all[all.length - 1];
    const x = all[0].x + view.scale("x")(row.step);
    put(line, x, all[0].y, 1, bottom.y + bottom.height - all[0].y);
    panels.forEach((key, number) => {
      if (row[key] == null) dots[number].style.display = "none";
      else put(dots[number], x, all[number].y + view.scale(`concat_${number}_y`)(row[key]));
    });
    const entry = (name, value) => {
      const pair = document.createElement("div");
      for (const text of [name, value]) pair.appendChild(document.createElement("span")).textContent = text;
      return pair;
    };
    const head = document.createElement("b");
    head.textContent = "Step " + whole(row.step) + (row.epoch == null ? "" : ", epoch " + whole(row.epoch));
    tip.replaceChildren(head, ...figures
      .filter(([, key]) => keys.includes(key) && !(key === "smoothed" && row.smoothed == null))
      .map(([name, key, text]) => entry(name, row[key] == null ? "NaN or infinite" : text(row[key]))));
    if (validation.has(row.step)) tip.append(entry("Validation loss", round(validation.get(row.step))));
    put(tip, 0, 0);
    const room = chart.clientWidth - tip.offsetWidth;
    put(tip, clamp(x + 14 > room ? x - tip.offsetWidth - 14 : x + 14, 0, Math.max(0, room)), all[0].y + 8);
  }

  function zoom(low, high) {
    shown = [low, high];
    point(null);
    view.signal("x0", low).signal("x1", high).runAsync().then(fit);
    out.hidden = low === first && high === last;
    hint.hidden = !out.hidden;
    document.documentElement.dataset.shown = low + "-" + high;
  }

  chart.addEventListener("pointerdown", (event) => {
    if (!view || event.button !== 0) return;
    from = nearest(event);
    chart.setPointerCapture(event.pointerId);
  });
  chart.addEventListener("pointermove", (event) => {
    if (!view) return;
    const index = nearest(event);
    point(index);
    if (from === null) return;
    const all = places(), bottom = all[all.length - 1], x = view.scale("x");
    const ends = [steps[from], steps[index]].map((step) => all[0].x + x(step));
    const left = Math.min(...ends), right = Math.max(...ends);
    put(range, left, all[0].y, right - left, bottom.y + bottom.height - all[0].y);
  });
  chart.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const to = nearest(event), begin = from;
    stop();
    if (to !== begin) zoom(steps[Math.min(begin, to)], steps[Math.max(begin, to)]);
  });
  function stop() {
    from = null;
    range.style.display = "none";
  }
  chart.addEventListener("pointercancel", stop);
  chart.addEventListener("pointerleave", () => { if (from === null) point(null); });
  chart.addEventListener("dblclick", () => zoom(first, last));
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move && view) {
      const [low, high] = shown.map((step) => steps.indexOf(step));
      point(clamp(at === null ? (move > 0 ? low : high) : at + move, low, high));
      event.preventDefault();
    } else if (event.key === "Escape") {
      point(null);
      if (view) zoom(first, last);
    }
  });
  out.addEventListener("click", () => zoom(first, last));
  for (const input of document.querySelectorAll("input[name=scale]")) {
    input.addEventListener("change", () => { type = input.value; draw(); });
  }
  if (columns.loss.some((loss) => loss !== null && loss <= 0)) {
    const log = document.querySelector("input[value=log]");
    log.disabled = true;
    log.parentElement.title = "A loss of 0 has no place on a log scale.";
  }
  // A sandboxed frame, such as KFP's, may not download.
  if (window.self === window.top) {
    by("save").hidden = false;
    by("save").addEventListener("click", async () => {
      const link = document.createElement("a");
      link.href = await view.toImageURL("png", 2);
      link.download = (document.title.replace(/[^\p{L}\p{N}.-]+/gu, "_").slice(0, 80) || "loss") + ".png";
      link.click();
    });
  }
  if (rows.length < count) {
    by("thinned").textContent = whole(rows.length) + " of the " + whole(count)
      + " steps are drawn: the smallest and the largest values of every stretch, so no peak is missing.";
  }
  scheme.addEventListener("change", draw);
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(chart);
  draw().catch((error) => {
    document.documentElement.dataset.chart = "failed";
    by("view").textContent = "The chart could not be drawn: " + error.message;
  });
"""
