import math
from pathlib import Path

import pytest

from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses

# As Rich prints a step into mini-trainer's log, with its colours.
_STEP = b'{\n  \x1b[1;34m"step"\x1b[0m: \x1b[1;36m8\x1b[0m,\n  \x1b[1;34m"val_loss"\x1b[0m: null\n}\n'


def _step(number: int, val_loss: float | None, **fields) -> dict:
    return {"step": number, "total_samples_accumulated": 8.0 * number, "val_loss": val_loss, **fields}


def test_a_validation_within_a_step_belongs_to_that_steps_samples():
    steps = [_step(1, None), _step(2, 3.0, val_num_samples=4.0), _step(3, 3.0), _step(4, 2.5, val_num_samples=4.0)]

    assert validation_losses(steps) == {16.0: 3.0, 32.0: 2.5}


def test_a_validation_at_the_end_of_an_epoch_shows_with_the_next_step_and_belongs_to_the_one_before():
    steps = [_step(1, None), _step(2, None), _step(3, 3.0), _step(4, 3.0), _step(5, 2.5)]

    assert validation_losses(steps, after_the_last=2.25) == {16.0: 3.0, 32.0: 2.5, 40.0: 2.25}


@pytest.mark.parametrize("val_loss", [None, math.nan, math.inf, "2.0"])
def test_what_is_no_number_is_no_validation(val_loss):
    assert validation_losses([_step(1, None), _step(2, val_loss), _step(3, val_loss)]) == {}


@pytest.mark.parametrize(
    ("log", "loss"),
    [
        (
            _STEP
            + b"Validation loss: 1.123457\nEpoch 2 validation loss: 1.1234567\nNew best validation loss: 1.123457\n",
            1.1234567,
        ),
        (_STEP + b"Validation loss: 1.5\nEpoch 2 validation loss: 1.5\nFinal validation loss: 1.25\n", 1.25),
        (b"Validation loss: 1.500000\n" + _STEP, None),
        (_STEP + b"Saved model at 64.0 samples\n", None),
        (_STEP + b"Validation loss: 1.2.3\n", None),
        (b"", None),
        (b"x" * (2 << 20) + _STEP + b"Validation loss: 1.5\n", 1.5),
    ],
)
def test_the_last_validation_is_told_by_the_trainers_log_alone(tmp_path: Path, log: bytes, loss: float | None):
    (tmp_path / "training_log_node0.log").write_bytes(log)

    assert loss_after_the_last_step(tmp_path) == loss


def test_without_a_log_there_is_none(tmp_path: Path):
    assert loss_after_the_last_step(tmp_path) is None
