"""The page of a sequence: heat maps of what each model knows of each task, the figures, and the drift."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.sequence.card import signed
from kfp_osft.pipelines.sequence.result import SequenceResult
from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.model.folder import public_name
from kfp_osft.shared.pages.page import figure_row, framed_page
from kfp_osft.stages.evaluate_model.charts import chart_scripts, responsive
from kfp_osft.stages.evaluate_model.report import STYLE, html_table

_CELL = 38


def write_page(result: SequenceResult, path: Path) -> None:
    """Writes the page, one HTML file that needs no network, whole or not at all."""
    charts: dict[str, Mapping[str, Any]] = {}
    sections = []
    accuracies, losses = result.accuracies(), result.losses()
    of_base = result.base.rows
    if accuracies is not None:
        base = [of_base[name].exact_match or 0.0 for name in result.names]
        charts["accuracies"] = heat_map(result.names, base, accuracies, ".0%", "exact match")
        sections.append(_section("accuracies", "Exact match on each task", "Higher is better.", result, accuracies))
    base = [of_base[name].loss for name in result.names]
    charts["losses"] = heat_map(result.names, base, losses, ".2f", "loss")
    sections.append(_section("losses", "Loss on each task", "Nats per token; lower is better.", result, losses))
    body = "".join([_headline(result), *sections, _tasks(result), chart_scripts(charts)])
    title = f"{len(result.learnt)} task{'' if len(result.learnt) == 1 else 's'}, one after the other"
    with replacing_file(path) as unfinished:
        unfinished.write_text(
            framed_page(title, f"OSFT of {public_name(result.base_model)}", body, STYLE), encoding="utf-8"
        )


def heat_map(
    names: Sequence[str], base: Sequence[float], matrix: Sequence[Sequence[float]], number: str, what: str
) -> dict[str, Any]:
    """A heat map as Vega-Lite: a row for the base model and one for the model after each task, a column per task.

    Args:
        names: of the tasks.
        base: the base model's score on each.
        matrix: of the scores.
        number: format of a score.
        what: the score is.
    """
    import altair as alt

    rows = [
        {"model": model, "task": name, "score": score}
        for model, scores in [
            ("base", base),
            *((f"after {name}", row) for name, row in zip(names, matrix, strict=True)),
        ]
        for name, score in zip(names, scores, strict=False)
    ]
    chart = alt.Chart(alt.InlineData(rows)).encode(
        x=alt.X("task:N", sort=list(names), axis=alt.Axis(title=None, orient="top", labelAngle=0, labelLimit=140)),
        y=alt.Y(
            "model:N", sort=None, axis=alt.Axis(title=None, grid=False, labelLimit=200, minExtent=110, maxExtent=210)
        ),
    )
    color = alt.Color("score:Q", scale=alt.Scale(scheme="blues", reverse=what == "loss"), legend=None)
    middle = (min(row["score"] for row in rows) + max(row["score"] for row in rows)) / 2
    dark = f"datum.score {'<' if what == 'loss' else '>'} {middle}"
    texts = chart.mark_text(fontSize=12).encode(
        text=alt.Text("score:Q", format=number), color=alt.condition(dark, alt.value("white"), alt.value("#1b1f27"))
    )
    return responsive(
        alt.layer(chart.mark_rect().encode(color=color), texts).properties(height=_CELL * (len(names) + 1))
    )


def _headline(result: SequenceResult) -> str:
    metrics = result.metrics()
    base, drifts = metrics.get("general_loss_of_base"), result.drifts()
    cells = []
    if "average_accuracy" in metrics:
        cells += [
            ("Average accuracy (AA)", f"{metrics['average_accuracy']:.1%}", "over all tasks, at the end"),
            ("When learnt", f"{metrics['accuracy_when_learnt']:.1%}", "each right after its training"),
            ("Backward transfer (BWT)", f"{100 * metrics['backward_transfer']:+.1f} points", "below 0 is forgetting"),
        ]
    cells += [
        ("Average loss", f"{metrics['average_loss']:.2f}", f"{metrics['loss_when_learnt']:.2f} when learnt"),
        ("Backward transfer of the loss", f"{metrics['loss_backward_transfer']:+.2f}", "above 0 is forgetting"),
    ]
    if base is not None:
        last = result.after[-1].general_loss or 0.0
        cells.append(("General loss", f"{base:.2f} → {last:.2f}", f"{signed(drifts[-1][0])} against the first base"))
    return figure_row(cells)


def _section(name: str, title: str, note: str, result: SequenceResult, matrix: Sequence[Sequence[float]]) -> str:
    number = "{:.1%}" if name == "accuracies" else "{:.3f}"
    rows = [
        [html.escape(model), *(number.format(score) for score in row), *[""] * (len(matrix) - len(row))]
        for model, row in zip(result.names, matrix, strict=True)
    ]
    table = html_table(["after", *result.names], rows, len(matrix))
    return f'<section><h2>{title}</h2><p>{note}</p><div class="chart" id="{name}"></div>{table}</section>'


def _tasks(result: SequenceResult) -> str:
    rows = [
        [
            html.escape(each.task.name),
            html.escape(each.kept),
            f"{each.task.unfreeze_rank_ratio:g}",
            "" if measures.general_loss is None else f"{measures.general_loss:.3f}",
            signed(base),
            signed(before),
        ]
        for each, measures, (base, before) in zip(result.learnt, result.after, result.drifts(), strict=True)
    ]
    head = (
        "task",
        "weights, against the model before",
        "ratio",
        "general loss",
        "against the base",
        "the model before",
    )
    return (
        "<section><h2>Trainings and drift</h2><p>The general loss is that on texts that no task is about, in nats per "
        f"token; its rise is told against the first base model and the model before.</p>{html_table(head, rows, 4)}"
        "</section>"
    )
