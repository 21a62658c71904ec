"""Base and tuned model side by side: what was learnt, what was forgotten, and whether that is within the limits."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kfp_osft.shared.knowledge.loss_change import is_much_worse
from kfp_osft.stages.evaluate_model.measuring import ModelMeasures

#: What a compared figure is about.
TASK, GENERAL, EARLIER, BENCHMARK = "task", "general", "earlier task", "benchmark"
#: Name of the sum of the general texts.
ALL_TEXTS = "general text"


@dataclass(frozen=True)
class Compared:
    """One figure of both models.

    Attributes:
        kind: TASK, GENERAL, EARLIER or BENCHMARK.
        name: of the rows, texts or benchmark.
        figure: loss (nats per token), exact match (0 to 1), or the benchmark's metric.
        before, after: of the base and of the tuned model.
        lower_is_better: as for a loss.
        count: tokens, answers or questions that it was measured on.
    """

    kind: str
    name: str
    figure: str
    before: float
    after: float
    lower_is_better: bool
    count: int

    @property
    def change(self) -> float | None:
        """(after - before) / before, so that 0.1 is ten percent more; None where that cannot be said."""
        if not self.before or not math.isfinite(self.before) or not math.isfinite(self.after):
            return None
        return (self.after - self.before) / abs(self.before)

    @property
    def loss_of_quality(self) -> float | None:
        """The relative change for the worse: 0.1 if a loss rose, or a score fell, by ten percent; below 0 if better."""
        return None if self.change is None else self.change if self.lower_is_better else -self.change


@dataclass(frozen=True)
class Limits:
    """When an evaluation passes.

    Attributes:
        max_forgetting: the largest loss of quality of the general texts, of an earlier task and of a benchmark.
        min_improvement: the smallest relative fall of the loss on the task's held-out rows.
    """

    max_forgetting: float = 0.05
    min_improvement: float = 0.0


def compared(before: ModelMeasures, after: ModelMeasures, task: str) -> list[Compared]:
    """Every figure that both models have.

    Args:
        before, after: of the base and of the tuned model.
        task: name of the rows of the task that was trained; the others are earlier tasks.
    """
    return [*_rows(before, after, task), *_texts(before, after), *_benchmarks(before, after)]


def improvement(figures: list[Compared]) -> float | None:
    """The relative fall of the loss on the task's held-out rows: 0.3 is thirty percent less. None without such rows."""
    losses = [each.loss_of_quality for each in figures if each.kind == TASK and each.figure == "loss"]
    return None if not losses or losses[0] is None else -losses[0]


def forgetting(figures: list[Compared]) -> Compared | None:
    """The figure with the largest loss of quality: of the general texts together, the losses on earlier tasks, and the
    benchmarks. None if there is nothing to say it by."""
    kept = [each for each in figures if _counts_as_kept(each) and each.loss_of_quality is not None]
    return max(kept, key=lambda each: each.loss_of_quality or 0.0, default=None)


def failures(figures: list[Compared], limits: Limits) -> list[str]:
    """Why the evaluation does not pass, a sentence for each reason; empty if it passes."""
    found = [
        f"the {each.figure} on {each.name} is not a number"
        for each in figures
        if not math.isfinite(each.after) and (_counts_as_kept(each) or each.kind == TASK)
    ]
    for each in figures:
        worse = each.loss_of_quality
        if _counts_as_kept(each) and worse is not None and worse > limits.max_forgetting:
            found.append(f"{describe(each)}, more than max_forgetting={limits.max_forgetting:g} allows")
    better = improvement(figures)
    if better is not None and better < limits.min_improvement:
        (loss,) = (each for each in figures if each.kind == TASK and each.figure == "loss")
        found.append(f"{describe(loss)}, short of min_improvement={limits.min_improvement:g}")
    return found


def describe(each: Compared) -> str:
    """One figure as part of a sentence: the loss on general text rose by 3.1 %, from 2.85 to 2.94."""
    change = each.change
    if change is None:
        return f"the {each.figure} on {each.name} went from {each.before:.3g} to {each.after:.3g}"
    if abs(change) < 0.0005:
        return f"the {each.figure} on {each.name} stayed at {each.after:.3g}"
    verb = "rose" if change > 0 else "fell"
    return f"the {each.figure} on {each.name} {verb} by {abs(change):.1%}, from {each.before:.3g} to {each.after:.3g}"


def metrics(figures: list[Compared]) -> dict[str, float]:
    """The figures, flat as KFP's Metrics want them, each finite: held_out_loss_before and _after,
    held_out_exact_match_before and _after, general_text_loss_before and _after; for an earlier task or a benchmark
    NAME_FIGURE_before and _after; improvement and forgetting (relative, see Limits)."""
    found: dict[str, float] = {}
    for each in figures:
        if each.kind == GENERAL and each.name != ALL_TEXTS:
            continue
        name = {TASK: "held_out", GENERAL: "general_text"}.get(each.kind, _identifier(each.name))
        figure = _identifier(each.figure)
        found |= {f"{name}_{figure}_before": each.before, f"{name}_{figure}_after": each.after}
    better, worst = improvement(figures), forgetting(figures)
    if better is not None:
        found["improvement"] = better
    if worst is not None and worst.loss_of_quality is not None:
        found["forgetting"] = worst.loss_of_quality
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _counts_as_kept(each: Compared) -> bool:
    return (
        (each.kind == GENERAL and each.name == ALL_TEXTS)
        or (each.kind == EARLIER and each.figure == "loss")
        or each.kind == BENCHMARK
    )


def _rows(before: ModelMeasures, after: ModelMeasures, task: str) -> Iterator[Compared]:
    for name, first in before.rows.items():
        then = after.rows[name]
        kind = TASK if name == task else EARLIER
        yield Compared(kind, name, "loss", first.loss, then.loss, True, then.tokens)
        if first.exact_match is not None and then.exact_match is not None:
            yield Compared(kind, name, "exact match", first.exact_match, then.exact_match, False, then.short_answers)


def _texts(before: ModelMeasures, after: ModelMeasures) -> Iterator[Compared]:
    if before.general_loss is not None and after.general_loss is not None:
        tokens = sum(text.tokens for text in after.texts.values())
        yield Compared(GENERAL, ALL_TEXTS, "loss", before.general_loss, after.general_loss, True, tokens)
    for kind, first in before.texts.items() if len(before.texts) > 1 else ():
        then = after.texts[kind]
        yield Compared(GENERAL, kind, "loss", first.loss, then.loss, True, then.tokens)


def _benchmarks(before: ModelMeasures, after: ModelMeasures) -> Iterator[Compared]:
    for name, first in before.benchmarks.items():
        then = after.benchmarks[name]
        yield Compared(BENCHMARK, name, first.metric, first.value, then.value, not first.higher_is_better, then.samples)


def _identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def as_rows(figures: list[Compared]) -> list[Mapping[str, Any]]:
    """The figures as JSON objects, with their relative change."""
    return [{**vars(each), "change": each.change} for each in figures]


def table(figures: list[Compared]) -> Iterator[str]:
    """Lines for a log: each figure of both models and its relative change."""
    yield f"{'figure':<52}{'before':>9}{'after':>9}{'change':>9}"
    for each in figures:
        change = "" if each.change is None else f"{each.change:+.1%}"
        yield f"  {f'{each.figure}, {each.name}':<50}{each.before:>9.3f}{each.after:>9.3f}{change:>9}"


def with_drift(weights: str, figures: list[Compared]) -> str:
    """The verdict on the weights, and next to it a jump of the general loss, which the weights alone do not show.

    Args:
        weights: KnowledgeCheck.verdict, or empty.
        figures: as compared gives them.
    """
    general = [each for each in figures if each.kind == GENERAL and each.name == ALL_TEXTS]
    jumped = [each for each in general if is_much_worse(each.before, each.after)]
    drift = f"{describe(jumped[0])}: the model forgot" if jumped else ""
    return f"{weights}; but {drift}" if weights and drift else weights or drift
