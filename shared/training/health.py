"""What is wrong with a training, by what it logged; each with what it usually means."""

import math
import statistics
from collections.abc import Sequence

from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.shared.training.metrics import number, numbers

#: Below it a training is hardly one; so many teach something.
FEW_STEPS, _ENOUGH_STEPS = 10, 20
# A loss is a spike if it is so many times the median of the steps before it, and a nat above that.
_SPIKE, _SPIKE_NATS, _WINDOW = 2.0, 1.0, 20
# Above ln(vocabulary size) by this, a model is worse than one that knows nothing.
_MARGIN = 1.05


def warnings_of(steps: list[dict]) -> list[str]:
    """What is wrong with a training, each with what it usually means; [] for a sound one."""
    if not steps:
        return [
            "The training logged no step. Usually it failed before the first one, and the trainer's log says "
            "why; or the data had no sample of a length that it takes."
        ]
    found = []
    losses = numbers(steps, "loss")
    broken = [step["step"] for step in steps if math.isnan(number(step.get("loss")))]
    if broken and not losses:
        found.append(
            f"The loss was NaN or infinite from the first step on, in {_of_all(len(steps))}. Usually no "
            "token of the data counts for the loss (no assistant turn, or all samples longer than "
            "max_tokens_per_gpu), or the base model holds NaN. The model that came out is of no use."
        )
    elif broken and steps[-1]["step"] == broken[-1]:
        begin = next(step["step"] for step in reversed(steps) if not math.isnan(number(step.get("loss"))))
        first = next(step for step in broken if step > begin)
        found.append(
            f"The loss became NaN or infinite at step {first:,} and stayed so to the end. Usually the "
            "learning rate is too high or the precision overflowed; weights that are NaN once stay NaN, so "
            "the model that came out is of no use. Take a lower learning rate or a longer warm-up."
        )
    elif broken:
        found.append(
            f"The loss was NaN or infinite in {len(broken):,} of {len(steps):,} steps, first at step "
            f"{broken[0]:,}. Usually a batch in which no token counts for the loss, or a number too large "
            "for the precision."
        )
    zero = [step["step"] for step in steps if step.get("grad_norm") == 0]
    if zero:
        found.append(
            f"The gradient was 0 in {len(zero):,} of {len(steps):,} steps, first at step {zero[0]:,}: these steps "
            "taught nothing. Usually the learning rate was so high that the model gives the same answer to everything."
        )
    if spikes := _spikes(steps):
        found.append(
            f"The loss jumped to more than {_SPIKE:g} times that of the steps before it in {len(spikes):,} of "
            f"{len(steps):,} steps, first to {spikes[0]['loss']:.4g} at step {spikes[0]['step']:,}. Usually the "
            "learning rate is too high, the warm-up too short, or a row is unlike all others."
        )
    if len(steps) < FEW_STEPS:
        rate = max(numbers(steps, "lr"), default=math.nan)
        at = "" if math.isnan(rate) else f" at a learning rate of {rate:.3g} at most"
        found.append(
            f"The training made {len(steps):,} optimizer step{'s' if len(steps) > 1 else ''}{at}, which hardly "
            "teaches anything: lower training_effective_batch_size, or raise training_num_epochs."
            + _smaller_batch(steps)
        )
    # The mean of a quarter, as one step's loss is that of one batch and says little.
    quarter = max(1, len(losses) // 4)
    if len(losses) > 1:
        begin, end = (math.fsum(part) / quarter for part in (losses[:quarter], losses[-quarter:]))
        if end >= begin:
            what = f"mean of the first and the last {quarter:,}" if quarter > 1 else "first and last step"
            found.append(
                f"The loss did not fall: {begin:.4g} at the beginning, {end:.4g} at the end ({what}). "
                "Usually the learning rate is too low or far too high, the training too short to show it, or "
                "the model knew the data already."
            )
    return found


def broken_model(steps: Sequence[dict], vocabulary: int | None = None) -> str | None:
    """Whether the training broke the model, as a sentence; None if it did not.

    Args:
        steps: as read_steps gives them.
        vocabulary: the model's vocab_size: ln of it is the loss of one that guesses.
    """
    tail = list(steps[-max(1, len(steps) // 10) :])
    if not tail:
        return None
    losses = numbers(tail, "loss")
    end = math.fsum(losses) / len(losses) if losses else math.nan
    if all(step.get("grad_norm") == 0 for step in tail):
        return (
            f"no gradient reached its weights at the end (gradient norm 0, loss {end:.4g}): it gives the same answer "
            "to everything"
        )
    guessing = math.log(vocabulary) if vocabulary else math.inf
    begin = number(steps[0].get("loss"))
    if end > _MARGIN * guessing and not end <= begin:
        guess = f"that of guessing among its {vocabulary:,} tokens ({guessing:.4g})"
        return f"its loss at the end, {end:.4g}, is above {guess}"
    return None


class HealthWatch:
    """Tells what goes wrong while a training runs, each kind once, when it is first seen."""

    _REMEDY = "end the training, and start it with a lower training_learning_rate or more training_lr_warmup_steps"

    def __init__(self) -> None:
        self._before: list[float] = []
        self._told: set[str] = set()

    def took(self, step: int, loss: float, gradient_norm: float | None) -> list[str]:
        """What is wrong with a step, with what to do; [] for a sound one, and for what was told before.

        Args:
            step: number of the step.
            loss: in nats a token.
            gradient_norm: before it is clipped; None where it is not known.
        """
        found = {}
        if math.isnan(number(loss)):
            what = "NaN" if math.isnan(loss) else "infinite"
            found["broken"] = (
                f"The loss is {what} at step {step:,}. If that of the next steps is too, the model is lost: "
                f"{self._REMEDY}."
            )
        elif usual := _spike(loss, self._before):
            found["spike"] = (
                f"The loss jumped from about {usual:.4g} to {loss:.4g} at step {step:,}. If it does not come down "
                f"again within a few steps: {self._REMEDY}."
            )
        if gradient_norm == 0:
            found["zero"] = (
                f"The gradient is 0 at step {step:,}, which taught nothing. If it stays so, the model gives the same "
                f"answer to everything: {self._REMEDY}."
            )
        if "broken" not in found:
            self._before = [*self._before[1 - _WINDOW :], loss]
        told, self._told = self._told, self._told | found.keys()
        return [sentence for kind, sentence in found.items() if kind not in told]


def _spikes(steps: Sequence[dict]) -> list[dict]:
    found, before = [], []
    for step in steps:
        loss = number(step.get("loss"))
        if math.isnan(loss):
            continue
        if _spike(loss, before):
            found.append(step)
        before.append(loss)
    return found


def _spike(loss: float, before: Sequence[float]) -> float | None:
    """The usual loss before this one if this is a spike."""
    if not before:
        return None
    usual = statistics.median(before[-_WINDOW:])
    return usual if loss > _SPIKE * usual and loss > usual + _SPIKE_NATS else None


def _smaller_batch(steps: Sequence[dict]) -> str:
    """The batch size that makes enough steps of the same samples, as a sentence; "" where there are not enough."""
    samples = round(math.fsum(numbers(list(steps), "num_samples")))
    batch = samples // _ENOUGH_STEPS
    if not batch:
        return ""
    return f" From the same {samples:,} samples, a batch size of {batch:,} would have made {samples // batch:,} steps."


def _of_all(count: int) -> str:
    return "its only step" if count == 1 else f"all {count:,} steps"


def check_trained(steps: list[dict]) -> None:
    """Passes where something was trained.

    Raises:
        TrainingError: no step at all, or a loss that is NaN or infinite from the first step to the last.
            mini-trainer ends both with "Training completed successfully".
    """
    if not numbers(steps, "loss"):
        raise TrainingError(warnings_of(steps)[0])
