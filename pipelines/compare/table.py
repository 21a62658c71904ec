"""The tables of a comparison: what differs between the runs, and what came out."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from kfp_osft.pipelines.compare.runs import ComparedRun
from kfp_osft.shared.knowledge.coverage import percent
from kfp_osft.shared.knowledge.loss_change import perplexity_change
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.training.metrics import resumptions

#: What is shown where a run does not say it: a parameter that was left out has the library's default.
MISSING = "-"
#: What is said of runs whose losses cannot be compared.
NOT_COMPARABLE = "Base models or datasets differ: losses on different rows, or of different tokenizers, do not compare."
_BEST = "*"
_STEPS_TIME = "time in the steps"


class Row(NamedTuple):
    """One line of a table: a heading, a cell for each run, and which of them are the best."""

    heading: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


class _Figure(NamedTuple):
    heading: str
    value: Callable[[Mapping[str, float]], float | None]
    text: Callable[[float], str]
    # Whether a lower or a higher one is better; None where neither is.
    lower_is_better: bool | None = True
    # Whether it says something only beside that of the same base model and rows, as a loss.
    is_loss: bool = False


def _metric(name: str) -> Callable[[Mapping[str, float]], float | None]:
    return lambda metrics: metrics.get(name)


def _change(name: str) -> Callable[[Mapping[str, float]], float | None]:
    def of(metrics: Mapping[str, float]) -> float | None:
        before, after = metrics.get(f"{name}_loss_before"), metrics.get(f"{name}_loss_after")
        return None if before is None or after is None else perplexity_change(before, after)

    return of


def _loss(value: float) -> str:
    return f"{value:.4g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _signed(value: float) -> str:
    return f"{value:+.0%}" if abs(value) >= 0.005 else "0%"


_FIGURES = (
    _Figure("loss at the end (last tenth)", _metric("mean_loss_last_tenth"), _loss, is_loss=True),
    _Figure("lowest loss", _metric("lowest_loss"), _loss, is_loss=True),
    _Figure("validation loss at the end", _metric("validation_loss"), _loss, is_loss=True),
    _Figure("lowest validation loss", _metric("lowest_validation_loss"), _loss, is_loss=True),
    _Figure("perplexity on held-out rows", _change("held_out"), _signed, is_loss=True),
    _Figure(
        "exact answers on held-out rows", _metric("held_out_exact_match_after"), "{:.0%}".format, False, is_loss=True
    ),
    _Figure("perplexity on a general text", _change("general_text"), _signed),
    _Figure("change in the directions to keep", _metric("kept_subspace_share_max"), percent),
    _Figure("rows trained on", _metric("rows_kept"), _count, None),
    _Figure("rows dropped", _metric("rows_dropped"), _count, None),
    _Figure("steps", _metric("steps"), _count, None),
    _Figure("tokens", _metric("tokens"), _count, None),
    _Figure("tokens/s (median step)", _metric("median_tokens_per_second"), _count, False),
    _Figure("time", _metric("wall_clock_seconds"), duration_text),
    _Figure(_STEPS_TIME, _metric("training_seconds"), duration_text),
    _Figure("GPU memory", _metric("peak_gpu_memory_gb"), "{:.1f} GB".format),
)


class Comparison(NamedTuple):
    """What differs between the runs, what came out, and what to know before their losses are compared, or empty."""

    differences: list[Row]
    results: list[Row]
    caution: str


def comparison(runs: Sequence[ComparedRun]) -> Comparison:
    """The tables of the runs."""
    return Comparison(differences(runs), results(runs), "" if losses_compare(runs) else NOT_COMPARABLE)


def differences(runs: Sequence[ComparedRun]) -> list[Row]:
    """Of what the runs were made from, that in which they differ; what is not known does not count."""
    known = [run.made_from for run in runs if run.made_from]
    rows = []
    for name in dict.fromkeys(name for made_from in known for name in made_from):
        if len({made_from.get(name, MISSING) for made_from in known}) > 1:
            rows.append(Row(name, tuple(run.made_from.get(name, MISSING) for run in runs)))
    for library in dict.fromkeys(library for run in runs for library in run.versions):
        if len({run.versions[library] for run in runs if library in run.versions}) > 1:
            rows.append(Row(library, tuple(run.versions.get(library, MISSING) for run in runs)))
    return rows


def losses_compare(runs: Sequence[ComparedRun]) -> bool:
    """Whether the losses of the runs can be compared: as far as is known, the same model learned the same rows."""
    known = [run.made_from for run in runs if run.made_from]
    return all(len({made_from.get(name) for made_from in known}) <= 1 for name in ("base_model", "dataset"))


def results(runs: Sequence[ComparedRun]) -> list[Row]:
    """The figures that any of the runs has, the best of each row marked where that means something."""
    rows, can_compare = [], losses_compare(runs)
    has_wall_clock = all("wall_clock_seconds" in run.metrics for run in runs)
    for figure in _FIGURES:
        if figure.heading == _STEPS_TIME and has_wall_clock:
            continue
        values = [figure.value(run.metrics) for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            continue
        best: frozenset[int] = frozenset()
        has_best = figure.lower_is_better is not None and (can_compare or not figure.is_loss)
        if has_best and len(set(map(figure.text, known))) > 1:
            top = min(known) if figure.lower_is_better else max(known)
            best = frozenset(at for at, value in enumerate(values) if value == top)
        rows.append(
            Row(figure.heading, tuple(MISSING if value is None else figure.text(value) for value in values), best)
        )
    if any(resumptions(run.steps) for run in runs):
        rows.append(Row("resumed after step", tuple(map(_resumed, runs))))
    return rows


def _resumed(run: ComparedRun) -> str:
    after = ", ".join(f"{step:,}" for step in resumptions(run.steps))
    return after or ("no" if run.steps else MISSING)


def as_text(names: Sequence[str], rows: Sequence[Row], width: int) -> list[str]:
    """A table in lines of at most `width` characters: runs that do not fit beside each other follow below."""
    heading = max(len(row.heading) for row in rows)
    columns = [
        [name, *(row.cells[at] + (_BEST if at in row.best else "") for row in rows)] for at, name in enumerate(names)
    ]
    lines: list[str] = []
    while columns:
        widths = [max(map(len, column)) for column in columns]
        fitting = 1
        while fitting < len(columns) and heading + sum(2 + one for one in widths[: fitting + 1]) <= width:
            fitting += 1
        lines += [""] if lines else []
        for line, first in enumerate(["", *(row.heading for row in rows)]):
            cells = [f"  {column[line]:>{one}}" for column, one in zip(columns[:fitting], widths, strict=False)]
            lines.append(f"{first:<{heading}}{''.join(cells)}".rstrip())
        columns = columns[fitting:]
    return lines


def as_html(caption: str, names: Sequence[str], rows: Sequence[Row]) -> str:
    """The table as HTML, its best cells in bold."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{html.escape(row.heading)}</th>"
        + "".join(
            f"<td>{'<b>' if at in row.best else ''}{html.escape(cell)}{'</b>' if at in row.best else ''}</td>"
            for at, cell in enumerate(row.cells)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="table"><table><caption>{html.escape(caption)}</caption><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
