import math

import pytest

from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.shared.training.health import HealthWatch, broken_model, check_trained, warnings_of


def steps_of(*losses: float, **fields) -> list[dict]:
    """Steps with these losses; at least ten, so that their number is no matter, unless `few`."""
    return [{"step": at, "loss": loss, "grad_norm": 1.0, **fields} for at, loss in enumerate(losses, start=1)]


FALLING = (5, 4.5, 4, 3.5, 3, 3.25, 2.75, 2.5, 2.5, 2.25)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (steps_of(*FALLING, math.nan, 2, math.inf, 1, 1), ["in 2 of 15 steps, first at step 11"]),
        (steps_of(*FALLING, math.nan, 3, math.nan, math.nan), ["became NaN or infinite at step 13 and stayed so"]),
        (steps_of(*([2.0] * 10)), ["did not fall: 2 at the beginning, 2 at the end (mean of"]),
        (steps_of(*([1.0, 1.5] * 8)), ["did not fall: 1.25 at the beginning, 1.25 at the end (mean of"]),
        (
            steps_of(*FALLING, 2, 9, 2),
            ["jumped to more than 2 times that of the steps before it in 1 of 13 steps, first to 9"],
        ),
        (steps_of(*FALLING, grad_norm=0), ["gradient was 0 in 10 of 10 steps, first at step 1"]),
        # A small loss doubles easily.
        (steps_of(*FALLING, 0.2, 0.5, 0.2), []),
        (steps_of(*FALLING), []),
    ],
)
def test_what_is_wrong_with_a_training_is_said_and_nothing_is_of_a_sound_one(steps, said):
    found = warnings_of(steps)
    assert len(found) == len(said)
    for warning, part in zip(found, said, strict=True):
        assert part in warning and "Usually" in warning and warning.endswith(".")


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "logged no step"),
        (steps_of(math.nan, math.nan), "from the first step on, in all 2 steps"),
        (steps_of(math.nan), "from the first step on, in its only step"),
    ],
)
def test_a_training_without_a_loss_is_said_to_be_none(steps, said):
    assert said in warnings_of(steps)[0]


@pytest.mark.parametrize(("count", "begins"), [(1, "made 1 optimizer step at"), (2, "made 2 optimizer steps at")])
def test_a_training_of_a_few_steps_is_told_to_teach_hardly_anything(count, begins):
    # What the defaults do to 200 rows: 2 steps of 128.
    found = warnings_of(steps_of(*FALLING[:count], lr=5e-6))
    (told,) = [warning for warning in found if "optimizer step" in warning]
    assert begins in told and "a learning rate of 5e-06 at most, which hardly teaches anything" in told
    assert "training_effective_batch_size" in told and "training_num_epochs" in told


VOCABULARY = 600
GUESSING = math.log(VOCABULARY)


@pytest.mark.parametrize(
    ("steps", "broken"),
    [
        # As the tiny model at a learning rate of 10: then exactly ln(vocabulary) and no gradient.
        (
            steps_of(6.1, 68.0, GUESSING) + steps_of(*([GUESSING] * 17), grad_norm=0.0),
            "no gradient reached its weights",
        ),
        (
            steps_of(3.0, 9.0, 9.5),
            f"its loss at the end, 9.5, is above that of guessing among its 600 tokens ({GUESSING:.4g})",
        ),
        (steps_of(3.0, 2.0, 6.2), None),
        (steps_of(3.0, 68.0, 2.0), None),
        # The base model was no better.
        (steps_of(9.0, 8.5, 8.0), None),
        # A tiny model that has not been trained before.
        (steps_of(GUESSING, GUESSING - 0.1), None),
        ([], None),
        (steps_of(math.nan), None),
        (steps_of(3.0, math.nan, grad_norm=math.nan), None),
        (steps_of(3.0, 2.0, grad_norm=None), None),
    ],
)
def test_a_model_that_its_training_broke_is_told_from_one_that_is_only_bad(steps, broken):
    found = broken_model(steps, VOCABULARY)
    assert found is None if broken is None else broken in found


def test_without_a_known_vocabulary_only_the_gradient_tells():
    assert broken_model(steps_of(3.0, 50.0)) is None
    assert "no gradient" in broken_model(steps_of(3.0, 50.0, grad_norm=0.0))


@pytest.mark.parametrize("steps", [[], steps_of(math.nan), steps_of(math.nan, math.inf, math.nan)])
def test_no_steps_and_nan_from_the_first_step_on_are_an_error(steps):
    with pytest.raises(TrainingError) as error:
        check_trained(steps)
    assert str(error.value) == warnings_of(steps)[0]


@pytest.mark.parametrize("steps", [steps_of(3.0), steps_of(3.0, math.nan, math.nan), steps_of(2.0, 3.0)])
def test_a_training_that_had_a_finite_loss_is_no_error(steps):
    check_trained(steps)


@pytest.mark.parametrize(
    ("losses", "gradient_norm", "told"),
    [
        ([2.0, 1.9, 1.8], 1.0, {}),
        ([2.0, math.nan, math.nan], math.nan, {2: "The loss is NaN at step 2."}),
        ([math.inf, 2.0], 1.0, {1: "The loss is infinite at step 1."}),
        ([2.0, 2.0, 4.1, 9.0], 1.0, {3: "The loss jumped from about 2 to 4.1 at step 3."}),
        ([0.2, 0.5, 0.6], 1.0, {}),
        ([9.0, 9.0], 0.0, {1: "The gradient is 0 at step 1, which taught nothing."}),
    ],
    ids=["sound", "NaN", "infinite", "spike", "small", "zero gradient"],
)
def test_a_running_training_is_told_once_what_goes_wrong_and_what_to_do(losses, gradient_norm, told):
    watch = HealthWatch()
    found = {step: watch.took(step, loss, gradient_norm) for step, loss in enumerate(losses, start=1)}
    assert {step: sentences[0].partition(" If ")[0] for step, sentences in found.items() if sentences} == told
    assert all("lower training_learning_rate" in sentence for sentences in found.values() for sentence in sentences)


def test_of_few_steps_the_batch_size_that_makes_enough_of_the_same_samples_is_told():
    steps = [{"step": step, "loss": 2.0, "num_samples": 100} for step in (1, 2)]
    assert "From the same 200 samples, a batch size of 10 would have made 20 steps." in " ".join(warnings_of(steps))
