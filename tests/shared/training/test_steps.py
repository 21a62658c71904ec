import math

import pytest

from kfp_osft.shared.training.steps import TrainingStep

STEP = TrainingStep(3, 24, 1, 2.4658, 9.62e-05, 136.0, "3 min 37 s")


def test_a_step_is_one_line():
    assert str(STEP) == "step 3/24 | epoch 1 | loss 2.4658 | lr 9.62e-05 | 136 tokens/s | 3 min 37 s left"


@pytest.mark.parametrize("step", [STEP, STEP._replace(step=24, left="0 s"), STEP._replace(learning_rate=0.0)])
def test_the_line_is_the_step_again(step):
    assert TrainingStep.parse(f"  {step}\n") == step


def test_a_loss_that_is_no_number_is_read_as_such():
    assert math.isnan(TrainingStep.parse(str(STEP._replace(loss=math.nan))).loss)


@pytest.mark.parametrize(
    "line", ["", "Saved model", "step 3/24", str(STEP) + " of it", str(STEP).replace("2.4658", "x")]
)
def test_any_other_line_is_none(line):
    assert TrainingStep.parse(line) is None
