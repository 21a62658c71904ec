"""The page of an evaluation: one HTML file that needs no network, in the style of the loss chart's."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.knowledge.check import KnowledgeCheck
from kfp_osft.shared.knowledge.coverage import percent
from kfp_osft.shared.pages.page import figure_row, framed_page
from kfp_osft.stages.evaluate_model import comparison
from kfp_osft.stages.evaluate_model.charts import chart_scripts, losses_chart, scores_chart
from kfp_osft.stages.evaluate_model.comparison import BENCHMARK, EARLIER, GENERAL, TASK, Compared
from kfp_osft.stages.evaluate_model.options import TASK_NAME
from kfp_osft.stages.evaluate_model.result import Evaluation

STYLE = """
h2 { margin: 28px 0 6px; font-size: 16px; font-weight: 600; }
section p { margin: 4px 0 10px; color: var(--muted); max-width: 110ch; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 400; font-size: 12px; }
td.number, th.number { text-align: right; }
.wide { overflow-x: auto; }
#verdict { margin: 14px 0 0; padding: 10px 14px; border-left: 4px solid var(--smoothed); background: var(--raised);
  border-radius: 0 4px 4px 0; max-width: 110ch; }
#verdict.failed { border-left-color: var(--alarm); }
#verdict ul { margin: 6px 0 0; padding-left: 20px; }
.better { color: var(--smoothed); } .worse { color: var(--alarm); }
.chart, .chart.vega-embed { display: block; width: 100%; max-width: 980px; margin-bottom: 14px; }
article { margin: 12px 0; padding: 10px 14px; background: var(--raised); border-radius: 6px; max-width: 110ch; }
article div { display: grid; grid-template-columns: 90px 1fr; gap: 12px; padding: 3px 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
article div span:first-child { color: var(--muted); font-size: 12px; padding-top: 2px; }
"""
_TITLES = {TASK: "learnt", EARLIER: "kept", GENERAL: "kept", BENCHMARK: "kept"}


def write_report(result: Evaluation, path: Path) -> None:
    """Writes the page, whole or not at all; its folder must exist."""
    body = "".join(
        [
            _verdict(result),
            _headline(result),
            _charts(result.figures),
            _figures(result.figures),
            _weights(result.weights, result.verdict),
            _examples(result),
        ]
    )
    subtitle = f"{result.models.tuned_name}, compared with its base model {result.models.base_name}"
    page = framed_page(f"Evaluation of {result.models.tuned_name}", subtitle, body, STYLE)
    with replacing_file(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """A table as HTML.

    Args:
        head: titles of the columns, plain text.
        rows: cells, as HTML.
        numbers: how many of the last columns are aligned as numbers.
    """
    first = len(head) - numbers

    def line(tag: str, cells: Sequence[str]) -> str:
        marked = (f"<{tag}{' class=number' if at >= first else ''}>{cell}</{tag}>" for at, cell in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    lines = [line("th", [html.escape(title) for title in head]), *(line("td", cells) for cells in rows)]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def change_text(each: Compared) -> str:
    """The relative change as HTML, colored by whether it is for the better."""
    if each.change is None:
        return ""
    worse = each.loss_of_quality or 0.0
    kind = "" if abs(worse) < 0.005 else "worse" if worse > 0 else "better"
    return f'<span class="{kind}">{each.change:+.1%}</span>'


def _verdict(result: Evaluation) -> str:
    limits = result.options.limits
    asked = (
        f"Limits: max_forgetting={limits.max_forgetting:g}, min_improvement={limits.min_improvement:g}"
        f"{', and the gate is on' if result.options.gate else ''}."
    )
    reasons = "".join(f"<li>{html.escape(failure)}</li>" for failure in result.failures)
    head = "Passed." if result.passed else "Not passed:"
    return (
        f'<div id="verdict"{"" if result.passed else " class=failed"}><b>{head}</b> '
        f"{f'<ul>{reasons}</ul>' if reasons else ''}{asked}</div>"
    )


def _headline(result: Evaluation) -> str:
    cells = []
    for kind, figure, title in (
        (TASK, "loss", "Loss on held-out rows"),
        (TASK, "exact match", "Exact match"),
        (GENERAL, "loss", "Loss on general text"),
    ):
        found = [each for each in result.figures if (each.kind, each.figure) == (kind, figure)]
        if found:
            each = found[0]
            cells.append((title, _pair(each), f"{change_text(each)} on {_count(each)}"))
    worst = comparison.forgetting(result.figures)
    if worst is not None and worst.loss_of_quality is not None:
        cells.append(("Forgetting", f"{max(0.0, worst.loss_of_quality):.1%}", html.escape(worst.name)))
    if result.weights is not None and result.weights.leak is not None:
        leak = f"{percent(result.weights.leak)} leaked"
        cells.append(("Kept subspace", leak, f"at most, in {len(result.weights.changes)} matrices"))
    return figure_row(cells)


def _pair(each: Compared) -> str:
    if each.figure == "exact match":
        return f"{each.before:.0%} → {each.after:.0%}"
    return f"{each.before:.2f} → {each.after:.2f}"


def _count(each: Compared) -> str:
    unit = {"loss": "token", "exact match": "answer"}.get(each.figure, "question")
    return f"{each.count:,} {unit}{'' if each.count == 1 else 's'}"


def _charts(figures: Sequence[Compared]) -> str:
    charts = {"losses": losses_chart(figures), "scores": scores_chart(figures)}
    drawn: dict[str, Mapping[str, Any]] = {name: chart for name, chart in charts.items() if chart}
    places = "".join(f'<div class="chart" id="{name}"></div>' for name in drawn)
    return (
        "<section><h2>Learnt and kept</h2><p>Each line goes from the base model (ring) to the tuned one (dot). A loss "
        f"that falls, and a score that rises, is better.</p>{places}</section>{chart_scripts(drawn)}"
    )


def _figures(figures: Sequence[Compared]) -> str:
    rows = [
        (
            _TITLES[each.kind],
            html.escape(each.name),
            html.escape(each.figure),
            _count(each),
            f"{each.before:.3f}",
            f"{each.after:.3f}",
            change_text(each),
        )
        for each in figures
    ]
    head = ("", "measured on", "figure", "of", "base", "tuned", "change")
    return (
        "<section><h2>Figures</h2><p>Losses are in nats per token. An exact match is an answer, generated greedily, "
        f"that is the expected text.</p>{html_table(head, rows, 4)}</section>"
    )


def _weights(weights: KnowledgeCheck | None, verdict: str) -> str:
    if weights is None:
        return f"<section><h2>Weights</h2><p>{html.escape(verdict)}</p></section>" if verdict else ""
    rows = [
        (
            html.escape(change.name.removesuffix(".weight")),
            f"{change.size:.2%}",
            percent(change.share),
            percent(min(1.0, change.rounding * change.unlimited)),
        )
        for change in weights.changes
    ]
    head = ("matrix", "size of the change", "in the directions to keep", "of that, rounding")
    sentence = html.escape(f"{verdict[0].upper()}{verdict[1:]}.")
    return f"<section><h2>Weights</h2><p>{sentence}</p>{html_table(head, rows, 3)}</section>"


def _examples(result: Evaluation) -> str:
    before, after = (measures.rows.get(TASK_NAME) for measures in (result.before, result.after))
    if before is None or after is None or not before.examples:
        return ""
    articles = "".join(
        "<article>"
        + "".join(
            f"<div><span>{name}</span><span>{html.escape(text) or '(nothing)'}</span></div>"
            for name, text in (
                ("prompt", one["prompt"]),
                ("expected", one["expected"]),
                ("base", one["answer"]),
                ("tuned", two["answer"]),
            )
        )
        + "</article>"
        for one, two in zip(before.examples, after.examples, strict=True)
    )
    return f"<section><h2>Examples</h2><p>Greedy answers to held-out rows.</p>{articles}</section>"
