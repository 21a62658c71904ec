"""One optimizer step as a line of a log, and the line as the step again."""

import re
from typing import NamedTuple

_LINE = re.compile(r"step (\d+)/(\d+) \| epoch (\d+) \| loss (\S+) \| lr (\S+) \| (\d+) tokens/s \| (.+) left")


class TrainingStep(NamedTuple):
    """What a person follows of a step.

    Attributes:
        step, total: number of the optimizer step, from 1 on, and of the last one.
        epoch: from 1 on.
        loss: mean cross-entropy of its batch in nats a token.
        learning_rate: of this step.
        tokens_per_second: over all ranks.
        left: expected duration of the remaining steps, as text.
    """

    step: int
    total: int
    epoch: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    left: str

    def __str__(self) -> str:
        return (
            f"step {self.step}/{self.total} | epoch {self.epoch} | loss {self.loss:.4f} | "
            f"lr {self.learning_rate:.3g} | {self.tokens_per_second:.0f} tokens/s | {self.left} left"
        )

    @classmethod
    def parse(cls, line: str) -> "TrainingStep | None":
        """The step that a line tells; None for any other line."""
        found = _LINE.fullmatch(line.strip())
        if found is None:
            return None
        step, total, epoch, loss, learning_rate, tokens_per_second, left = found.groups()
        try:
            return cls(
                int(step), int(total), int(epoch), float(loss), float(learning_rate), float(tokens_per_second), left
            )
        except ValueError:
            return None
