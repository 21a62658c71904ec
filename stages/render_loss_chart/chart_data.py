"""What the loss chart draws, computed from a training's steps; chart_spec.py says how it is drawn."""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import accumulate, pairwise

from kfp_osft.shared.training.health import warnings_of
from kfp_osft.shared.training.metrics import number, resumptions

#: What is drawn below the loss, from top to bottom.
PANEL_FIELDS = ("lr", "grad_norm", "tokens_per_second")
_DRAWN = 6000  # rows: at most 0.4 MB besides the 0.9 MB of Vega, and fast enough for hovering


def chart_notes(steps: list[dict]) -> list[str]:
    """Messages to show above the chart, or in its place."""
    notes = warnings_of(steps)
    if len(steps) == 1:
        notes.append("There is no curve to draw of a single step.")
    return notes


def is_drawable(steps: list[dict]) -> bool:
    """Whether there are at least two steps, one of them with a finite loss."""
    return len(steps) > 1 and any(not math.isnan(number(step.get("loss"))) for step in steps)


def drawn_datasets(steps: list[dict]) -> dict[str, list[dict]]:
    """The chart's datasets by name; the steps must be drawable, with val_loss as with_measured_losses leaves it.

    - steps: step, epoch (from 1 on), loss, smoothed, validation, and PANEL_FIELDS, each if any step has it; thinned,
      null for NaN
    - epochs: step and label of the beginning of each epoch
    - validations: step and loss
    - resumed: step: between the last step before and the first one after the training went on from a saved state
    - broken: from, to: intervals of steps whose loss is NaN or infinite
    - marked: step, loss, label, place (of the label: below or right of the point): the lowest and the final
      loss
    """
    rows = _rows(steps)
    validations = _validations(steps)
    drawn = _with_validations(thin(rows), rows, validations)
    used = [key for key in drawn[0] if any(row[key] == row[key] for row in drawn)]
    return {
        "steps": [{key: _short(row[key]) for key in used} for row in drawn],
        "epochs": _epochs(rows),
        "validations": validations,
        "resumed": [{"step": after + 0.5} for after in resumptions(steps)],
        "broken": _broken(rows),
        "marked": _marked(rows),
    }


def _with_validations(drawn: list[dict], rows: list[dict], validations: list[dict]) -> list[dict]:
    """The drawn rows, and those of a validation, with its loss as the column validation."""
    losses = {row["step"]: row["loss"] for row in validations}
    kept = {row["step"] for row in drawn} | losses.keys()
    return [row | {"validation": losses.get(row["step"], math.nan)} for row in rows if row["step"] in kept]


def thin(steps: list[dict], most: int = _DRAWN) -> list[dict]:
    """At most `most` of the steps, in order, without losing a peak.

    The steps are divided into intervals of equal length. Each keeps the steps with the minimum and maximum of loss,
    gradient norm, tokens per second and learning rate, and the first step whose loss is NaN or infinite. The first and
    the last step are kept too. Up to `most` steps are returned unchanged.

    Args:
        most: 11 or more.
    """
    if most < 11:
        raise ValueError(
            f"most={most} is not allowed; allowed: at least 11, the steps that one interval and both ends keep"
        )
    if len(steps) <= most:
        return list(steps)
    fields = ["loss", *PANEL_FIELDS]
    columns = [[number(step.get(field)) for step in steps] for field in fields]
    intervals = (most - 2) // (2 * len(fields) + 1)
    bounds = [len(steps) * at // intervals for at in range(intervals + 1)]
    kept = {0, len(steps) - 1}
    for begin, end in pairwise(bounds):
        for column in columns:
            valid = [at for at in range(begin, end) if column[at] == column[at]]
            if valid:
                kept.add(min(valid, key=column.__getitem__))
                kept.add(max(valid, key=column.__getitem__))
        kept.update([at for at in range(begin, end) if columns[0][at] != columns[0][at]][:1])
    return [steps[at] for at in sorted(kept)]


def loss_text(loss: float) -> str:
    """A loss or perplexity for display: 1.234, 0.0123, 2e+03."""
    return f"{loss:.3f}" if 0.1 <= abs(loss) < 1000 else f"{loss:.3g}"


def smoothing_window(count: int) -> int:
    """Window of the smoothed line in steps: odd, a 25th of the training, 5 to 501, at most all of them."""
    return min(501, max(5, count // 25 | 1), count - 1 | 1)


def _smoothed(losses: list[float], window: int) -> list[float]:
    """The rolling median of `window` losses, smoothed once more; NaN where the loss is NaN.

    A median, because one outlier would lift a mean for the length of the window. Medians of long windows jump from one
    loss to another, so the mean of the medians in a quarter of a window is drawn; with windows below 8 steps, the
    medians themselves.

    At the beginning, where a loss falls steeply, a window hardly extends further to the right than to the left. At the
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
    for at, median, (low, high) in zip(valid, medians, _windows(len(values), window // 8), strict=True):
        smooth[at] = median if high - low == 1 else (sums[high] - sums[low]) / (high - low)
    return smooth


def _windows(count: int, half: int) -> Iterator[tuple[int, int]]:
    for at in range(count):
        reach = min(half, at + half // 6)
        yield max(0, at - reach), min(count, at + reach + 1)


def _rows(steps: list[dict]) -> list[dict]:
    """The steps as the chart's rows: number, epoch from 1 on, loss and smoothed loss, the panels' fields."""
    losses = [number(step.get("loss")) for step in steps]
    smooth = _smoothed(losses, smoothing_window(len(steps)))
    return [
        {"step": step["step"], "epoch": number(step.get("epoch")) + 1, "loss": loss, "smoothed": smoothed}
        | {field: number(step.get(field)) for field in PANEL_FIELDS}
        for step, loss, smoothed in zip(steps, losses, smooth, strict=True)
    ]


def _epochs(rows: list[dict]) -> list[dict]:
    """Where epochs begin: all of them, or every 2nd, 5th, 10th, 20th ... so that at most 6 are marked."""
    begins = [
        (row["step"], round(row["epoch"]))
        for before, row in zip([None, *rows], rows, strict=False)
        if row["epoch"] == row["epoch"] and (before is None or row["epoch"] != before["epoch"])
    ]
    if len(begins) < 2:
        return []
    rounded = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    every = next(number for number in rounded if len(begins) <= 6 * number)
    kept = [(step, epoch) for step, epoch in begins if every == 1 or epoch % every == 0]
    return [{"step": step, "label": f"epoch {epoch:,}"} for step, epoch in kept]


def _validations(steps: list[dict]) -> list[dict]:
    """The steps after which a validation ran."""
    losses = [{"step": step["step"], "loss": number(step.get("val_loss"))} for step in steps]
    return thin([each for each in losses if not math.isnan(each["loss"])], 600)


def _broken(rows: list[dict]) -> list[dict]:
    """The intervals of steps whose loss is NaN or infinite, from half a step before to half a step after.

    Intervals closer than half a thousandth of the training are merged, so that there are never too many to draw.
    """
    intervals: list[dict] = []
    near = (rows[-1]["step"] - rows[0]["step"]) / 2000
    for row in rows:
        if row["loss"] != row["loss"]:
            begin, end = row["step"] - 0.5, row["step"] + 0.5
            if intervals and begin - intervals[-1]["to"] <= near:
                intervals[-1]["to"] = end
            else:
                intervals.append({"from": begin, "to": end})
    return intervals


def _marked(rows: list[dict]) -> list[dict]:
    """The lowest and the final loss with their labels; one label if they are the same step.

    Nothing is drawn below the lowest loss or right of the last finite one, so labels there cover no points or lines.
    """
    finite = [row for row in rows if row["loss"] == row["loss"]]
    lowest = min(finite, key=lambda row: row["loss"])
    final = finite[-1]
    if final is not rows[-1]:
        if lowest is final:
            return [_mark(final, "last\nfinite,\nlowest\n", "right")]
        return [_mark(lowest, "lowest ", "below"), _mark(final, "last\nfinite\n", "right")]
    if lowest is final:
        return [_mark(final, "final,\nlowest\n", "right")]
    return [_mark(lowest, "lowest ", "below"), _mark(final, "final\n", "right")]


def _mark(row: dict, name: str, place: str) -> dict:
    return {"step": row["step"], "loss": row["loss"], "label": f"{name}{loss_text(row['loss'])}", "place": place}


def _short(value: float) -> float | None:
    """Five significant digits, finer than a pixel; null for NaN, which JSON does not have."""
    if isinstance(value, int) or value != value:
        return value if value == value else None
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e9 else short
