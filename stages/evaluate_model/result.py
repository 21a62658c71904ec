"""The result of an evaluation: two models, what was measured of both, and whether the tuned one passes."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kfp_osft.shared.knowledge.check import KnowledgeCheck
from kfp_osft.stages.evaluate_model import comparison
from kfp_osft.stages.evaluate_model.comparison import Compared
from kfp_osft.stages.evaluate_model.measuring import ModelMeasures
from kfp_osft.stages.evaluate_model.options import Options


@dataclass(frozen=True)
class Models:
    """The two models, and what is known of the training between them.

    Attributes:
        base, tuned: their folders.
        base_name, tuned_name: for people.
        unfreeze_rank_ratio: of the training; None if it is not known, so that the weights cannot be judged.
        kinds: of the matrices that OSFT limited, where a run says them.
        trust_remote_code: whether code in their folders may run.
    """

    base: Path
    tuned: Path
    base_name: str
    tuned_name: str
    unfreeze_rank_ratio: float | None = None
    kinds: tuple[str, ...] = ()
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The result.

    Attributes:
        models: that were compared.
        before, after: measures of the base and of the tuned model.
        figures: both side by side.
        weights: the check of the kept subspace, where the ratio is known.
        failures: why it does not pass, in sentences; empty if it passes.
        options: that it was made with.
    """

    models: Models
    before: ModelMeasures
    after: ModelMeasures
    figures: list[Compared]
    weights: KnowledgeCheck | None
    failures: list[str]
    options: Options

    @property
    def passed(self) -> bool:
        """Whether it is within the limits."""
        return not self.failures

    @property
    def verdict(self) -> str:
        """What the weights kept, and beside it what happened to the general text; empty where neither is known."""
        return comparison.with_drift(self.weights.verdict if self.weights else "", self.figures)

    def metrics(self) -> dict[str, float]:
        """All figures, flat and finite, and passed as 1 or 0."""
        weights = self.weights.metrics() if self.weights else {}
        return {**comparison.metrics(self.figures), **weights, "passed": int(self.passed)}

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return {
            "passed": self.passed,
            "failures": self.failures,
            "limits": asdict(self.options.limits),
            "base_model": self.models.base_name,
            "tuned_model": self.models.tuned_name,
            "weights": self.verdict,
            "metrics": self.metrics(),
            "figures": comparison.as_rows(self.figures),
            "before": asdict(self.before),
            "after": asdict(self.after),
        }
