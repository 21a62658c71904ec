"""The checkpoints of a training, best first, by the trainer's own counts; file times say nothing on a copied volume."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.metrics import number

#: In the folder of checkpoints: mini-trainer's, which transformers loads.
HF_FORMAT = "hf_format"
# mini-trainer 0.9, train.py: hf_format/samples_<samples seen, a float's text>, and, where a validation was better
# than all before it, with this suffix.
_NAME = re.compile(r"samples_(\d+(?:\.\d+)?)(_best_val_loss)?")


class Checkpoint(NamedTuple):
    """One checkpoint.

    Attributes:
        folder: where it is.
        samples: samples seen.
        step: optimizer step, where the metrics tell it.
        validation_loss: of the model at these samples; None where it was not validated.
        is_best: the trainer saved it because its validation loss was lower than all before.
    """

    folder: Path
    samples: float
    step: int | None
    validation_loss: float | None
    is_best: bool

    @property
    def description(self) -> str:
        """Name, step and validation loss."""
        parts = [f"step {self.step:,}"] if self.step is not None else []
        parts += [f"validation loss {self.validation_loss:.4g}"] if self.validation_loss is not None else []
        return f"{self.folder.name} ({', '.join(parts)})" if parts else self.folder.name


def checkpoints(
    checkpoint_dir: Path, steps: Sequence[Mapping[str, Any]] = (), losses: Mapping[float, float] | None = None
) -> list[Checkpoint]:
    """The checkpoints in checkpoint_dir/HF_FORMAT, the one to publish first.

    Where there was a validation: by the lowest loss, and those that were not validated last. Else, and among equals:
    by the most samples seen.

    Args:
        steps: as read_steps gives them.
        losses: as validation_losses gives them.
    """
    losses = losses or {}
    numbers = {number(step.get("total_samples_accumulated")): step["step"] for step in steps}
    found = []
    for folder in checkpoint_dir.glob(f"{HF_FORMAT}/*"):
        if match := _NAME.fullmatch(folder.name):
            samples = float(match[1])
            found.append(Checkpoint(folder, samples, numbers.get(samples), losses.get(samples), bool(match[2])))

    def rank(checkpoint: Checkpoint) -> tuple[float, float, bool]:
        # One whose loss is told nowhere was better than all before it, if it is a "best".
        unknown = float("-inf" if checkpoint.is_best else "inf")
        loss = unknown if checkpoint.validation_loss is None else checkpoint.validation_loss
        return loss, -checkpoint.samples, checkpoint.is_best

    return sorted(found, key=rank)


def first_sound(
    checkpoint_dir: Path, candidates: Sequence[Checkpoint], problem_of: Callable[[Path], str | None]
) -> Checkpoint:
    """The first one without a problem; those before it are passed over, which the log says.

    Raises:
        InputError: there is none; holds the problems.
    """
    problems = []
    for checkpoint in candidates:
        problem = problem_of(checkpoint.folder)
        if problem is None:
            return checkpoint
        problems.append(f"{checkpoint.folder.name}: {problem}")
        log(f"Warning: checkpoint {checkpoint.folder.name} is passed over: {problem}")
    raise InputError(
        f"there is no complete checkpoint in {checkpoint_dir / HF_FORMAT}"
        + (
            f" ({'; '.join(problems)})"
            if problems
            else "; training_save_final_checkpoint or training_checkpoint_at_epoch makes the training save one"
        )
    )
