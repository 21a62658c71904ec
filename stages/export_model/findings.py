"""What a training's figures say about the model, in words: what is good and what is not."""

from collections.abc import Mapping, Sequence

from kfp_osft.shared.knowledge import unmeasured
from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.knowledge.loss_change import change_text, meaning

#: Of the layers' weights; a model of which OSFT limited less is called mostly plain fine-tuned.
_MOST = 0.5
# A loss that differs by less than this part of itself says nothing.
_SAME = 0.02


def findings(
    metrics: Mapping[str, float], coverage: Coverage | None, verdict: str = "", warnings: Sequence[str] = ()
) -> list[str]:
    """Sentences for people who decide whether to use the model.

    Args:
        metrics: as figures gives them, and those of KnowledgeCheck.metrics where it was measured.
        coverage: what OSFT limited, where it is known.
        verdict: KnowledgeCheck.verdict, where it was measured.
        warnings: as warnings_of gives them.
    """
    found = [_learnt(metrics), *_limited(coverage)]
    if verdict:
        found.append(f"Of the base model's knowledge, measured in the weights: {verdict}.")
    else:
        found.append(unmeasured.WEIGHTS)
    found.append(_compared(metrics, "general_text", "a general text", "the model forgot") or unmeasured.GENERAL_TEXT)
    found.append(_compared(metrics, "held_out", "rows of the task that were not trained on", "the model overfits"))
    if "validation_loss" in metrics:
        found.append(f"The trainer's validation loss is {metrics['validation_loss']:.3f} at the end.")
    return [sentence for sentence in (*found, *(f"Warning: {warning}" for warning in warnings)) if sentence]


def _learnt(metrics: Mapping[str, float]) -> str:
    first, last = metrics.get("first_loss"), metrics.get("mean_loss_last_tenth", metrics.get("final_loss"))
    if first is None or last is None:
        return ""
    steps = f"{metrics['steps']:,.0f} steps" if "steps" in metrics else "all steps"
    text = f"Loss on the training rows: {first:.3f} at the first step, {last:.3f} over the last tenth of {steps}"
    if last > first * (1 - _SAME):
        return f"{text}. It did not fall: the model learnt next to nothing from them, or unlearnt something."
    return f"{text}: the model learnt from them."


def _limited(coverage: Coverage | None) -> list[str]:
    if coverage is None:
        return []
    found = [f"{coverage.describe()}."]
    if coverage.share < _MOST:
        found.append(
            "Most of the layers' weights were trained as in plain fine-tuning: expect forgetting as with that."
        )
    return found


def _compared(metrics: Mapping[str, float], name: str, text: str, rose: str) -> str:
    before, after = metrics.get(f"{name}_loss_before"), metrics.get(f"{name}_loss_after")
    if before is None or after is None:
        return ""
    figures = f"{before:.3f} before, {after:.3f} after"
    return f"Loss on {text}: {figures} ({change_text(before, after)}), which is {meaning(before, after, rose)}."
