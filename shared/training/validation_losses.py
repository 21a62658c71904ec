"""Validation losses of a training, each with the samples that the model had seen by then.

mini-trainer 0.9 (train.py) shows a validation within a step on that step's line, with val_num_samples beside it; one
at the end of an epoch only on the NEXT step's line; one after the last step on no line at all, only in its log.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.training.metrics import number

#: What mini-trainer's launcher writes beside the checkpoints, anew in each attempt.
_LOG = "training_log_node0.log"
# Behind the last step come a progress bar, a few lines, and what is said while saving.
_TAIL_BYTES = 1 << 20
# "New best validation loss" is rounded.
_LOSS = re.compile(rb"(?<!best )validation loss: (\d\S*)", re.IGNORECASE)


def validation_losses(steps: Sequence[Mapping[str, Any]], after_the_last: float | None = None) -> dict[float, float]:
    """Validation loss by samples seen (mini-trainer's total_samples_accumulated), in the order of the training.

    Args:
        steps: as read_steps gives them.
        after_the_last: that of a validation after the last step, where there was one.
    """
    losses: dict[float, float] = {}
    seen, shown = 0.0, None
    for step in steps:
        loss, samples = number(step.get("val_loss")), number(step.get("total_samples_accumulated"))
        # NaN is unlike all, itself too.
        if loss == loss and samples == samples:
            if step.get("val_num_samples") is not None:
                losses[samples] = loss
            elif loss != shown:
                losses[seen] = loss
            shown = loss
        if samples == samples:
            seen = samples
    if after_the_last is not None and seen:
        losses[seen] = after_the_last
    return losses


def loss_after_the_last_step(checkpoint_dir: Path) -> float | None:
    """The last validation loss that the trainer's log tells behind the last step, or None."""
    path = checkpoint_dir / _LOG
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read()
    found = _LOSS.findall(tail, tail.rfind(b'"step"') + 1)
    try:
        return float(found[-1]) if found else None
    except ValueError:
        return None
