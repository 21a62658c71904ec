"""The result of a sequence of tasks."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.sequence.matrix import retention
from kfp_osft.pipelines.sequence.plan import Task
from kfp_osft.stages.evaluate_model.measuring import ModelMeasures


@dataclass(frozen=True)
class LearntTask:
    """A task that is done.

    Attributes:
        task: of the plan.
        model: folder of the model that has learnt it.
        held_out: its tokenized held-out rows.
        kept: the verdict on the weights, against the model before.
    """

    task: Task
    model: Path
    held_out: Path
    kept: str


@dataclass(frozen=True)
class SequenceResult:
    """The result.

    Attributes:
        base_model: name of the first base model.
        learnt: the tasks in their order.
        base: measures of the first base model, on all tasks.
        after: measures of the model after each task, on the tasks up to it.
    """

    base_model: str
    learnt: list[LearntTask]
    base: ModelMeasures
    after: list[ModelMeasures]

    @property
    def names(self) -> list[str]:
        """Of the tasks."""
        return [each.task.name for each in self.learnt]

    def losses(self) -> list[list[float]]:
        """The matrix of losses on the held-out rows, in nats per token."""
        return [[measures.rows[name].loss for name in self.names[: at + 1]] for at, measures in enumerate(self.after)]

    def accuracies(self) -> list[list[float]] | None:
        """The matrix of exact matches, 0 to 1; None if a task has no short answers."""
        rows = [
            [measures.rows[name].exact_match for name in self.names[: at + 1]] for at, measures in enumerate(self.after)
        ]
        found = [[score for score in row if score is not None] for row in rows]
        return found if all(len(row) == at + 1 for at, row in enumerate(found)) else None

    def metrics(self) -> dict[str, float]:
        """average_accuracy, accuracy_when_learnt and backward_transfer where there are accuracies; average_loss,
        loss_when_learnt and loss_backward_transfer; general_loss_of_base and general_loss_after_NAME."""
        loss = retention(self.losses())
        found = {
            "average_loss": loss.average,
            "loss_when_learnt": loss.learnt,
            "loss_backward_transfer": loss.backward_transfer,
        }
        if accuracies := self.accuracies():
            accuracy = retention(accuracies)
            found |= {
                "average_accuracy": accuracy.average,
                "accuracy_when_learnt": accuracy.learnt,
                "backward_transfer": accuracy.backward_transfer,
            }
        general = {"general_loss_of_base": self.base.general_loss}
        general |= {
            f"general_loss_after_{name}": each.general_loss for name, each in zip(self.names, self.after, strict=True)
        }
        return {**found, **{name: value for name, value in general.items() if value is not None}}

    def drifts(self) -> list[tuple[float | None, float | None]]:
        """After each task, the relative rise of the general loss, against the first base and the model before."""
        losses = [self.base.general_loss, *(each.general_loss for each in self.after)]
        return [(_rise(losses[0], now), _rise(before, now)) for before, now in pairwise(losses)]

    def to_dict(self) -> dict[str, Any]:
        """The content of sequence.json."""
        return {
            "base_model": self.base_model,
            "tasks": [
                {
                    "name": each.task.name,
                    "unfreeze_rank_ratio": each.task.unfreeze_rank_ratio,
                    "training": dict(each.task.training),
                    "model": str(each.model),
                    "kept": each.kept,
                }
                for each in self.learnt
            ],
            "metrics": self.metrics(),
            "accuracies": self.accuracies(),
            "losses": self.losses(),
            "base": asdict(self.base),
            "after": [asdict(measures) for measures in self.after],
        }


def _rise(before: float | None, now: float | None) -> float | None:
    return (now - before) / before if before and now is not None else None
