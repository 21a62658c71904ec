"""What is drawn is what the training did, and no peak is lost."""

import math

import pytest

from helpers.synthetic_training import training
from kfp_osft.stages.render_loss_chart.chart_data import (
    chart_notes,
    drawn_datasets,
    is_drawable,
    loss_text,
    smoothing_window,
    thin,
)


def with_losses(losses: list[float]) -> list[dict]:
    return [{"step": at, "loss": loss} for at, loss in enumerate(losses, start=1)]


def drawn(steps: list[dict], dataset: str, column: str) -> list:
    return [row[column] for row in drawn_datasets(steps)[dataset]]


def test_where_the_training_went_on_is_between_two_steps():
    assert drawn(training(24, resumed_after={10: 9, 21: 20}), "resumed", "step") == [9.5, 20.5]
    assert drawn(training(24), "resumed", "step") == []


# ---- thin


def test_a_short_training_is_not_thinned():
    steps = training(500)
    assert thin(steps, most=500) == steps


@pytest.mark.parametrize("most", [11, 100, 2000])
def test_a_thinned_training_is_as_short_as_asked_in_order_and_has_both_ends(most):
    steps = training(10_000)
    kept = thin(steps, most=most)
    numbers = [step["step"] for step in kept]
    assert len(kept) <= most and numbers == sorted(set(numbers)) and (numbers[0], numbers[-1]) == (1, 10_000)


@pytest.mark.parametrize("field", ["loss", "grad_norm", "tokens_per_second", "lr"])
@pytest.mark.parametrize("peak", [99.0, -99.0])
def test_a_peak_of_one_step_survives_thinning(field, peak):
    steps = training(10_000, **{field: {7_777: peak}})
    assert steps[7_776] in thin(steps, most=100)


def test_the_extremes_of_every_interval_survive_thinning():
    steps = training(9_000)
    kept = {step["step"] for step in thin(steps, most=2 + 9 * 30)}
    for begin in range(0, 9_000, 300):
        stretch = steps[begin : begin + 300]
        for extreme in (min, max):
            assert extreme(stretch, key=lambda step: step["loss"])["step"] in kept


def test_a_step_without_a_finite_loss_survives_thinning():
    steps = training(10_000, loss={5_000: math.nan})
    assert steps[4_999] in thin(steps, most=100)


def test_thinning_to_fewer_than_one_interval_is_rejected():
    with pytest.raises(ValueError, match="most=10 is not allowed"):
        thin(training(20), most=10)


# ---- the smoothed line


def test_the_smoothed_line_of_a_short_training_is_the_rolling_median():
    steps = with_losses([9, 8, 5, 7, 6, 50, 4, 3, 2, 1])
    assert smoothing_window(len(steps)) == 5
    assert drawn(steps, "steps", "smoothed") == [9, 8, 7, 7, 6, 6, 4, 3, 2.5, 2]


def test_one_outlier_does_not_move_the_smoothed_line_of_a_long_training():
    # In 3,000 steps the window is 121 wide: a mean would rise by 1000 / 121 there.
    flat, spiked = (drawn(training(3_000, loss=replaced), "steps", "smoothed") for replaced in ({}, {1_500: 1000.0}))
    assert max(abs(one - other) for one, other in zip(flat, spiked, strict=True)) < 0.05


@pytest.mark.parametrize(("count", "window"), [(2, 1), (4, 3), (5, 5), (24, 5), (3_000, 121), (100_000, 501)])
def test_the_smoothing_window_is_an_odd_share_of_the_training(count, window):
    assert smoothing_window(count) == window


# ---- what else is drawn


@pytest.mark.parametrize(
    ("epochs", "count", "labels"),
    [
        (1, 24, []),
        (3, 24, ["epoch 1", "epoch 2", "epoch 3"]),
        (12, 240, [f"epoch {epoch}" for epoch in range(2, 13, 2)]),
        (16, 320, [f"epoch {epoch}" for epoch in range(5, 17, 5)]),
        (40, 400, [f"epoch {epoch}" for epoch in range(10, 41, 10)]),
    ],
)
def test_epochs_are_marked_where_they_begin_but_never_more_than_six(epochs, count, labels):
    marked = drawn_datasets(training(count, epochs))["epochs"]
    assert [each["label"] for each in marked] == labels
    for each in marked:
        assert (each["step"] - 1) * epochs == (int(each["label"][6:]) - 1) * count


@pytest.mark.parametrize(
    ("losses", "labels"),
    [
        ([3, 1, 2], {2: "lowest 1.000", 3: "final\n2.000"}),
        ([3, 2, 1], {3: "final,\nlowest\n1.000"}),
        ([3, 1, 2, math.nan], {2: "lowest 1.000", 3: "last\nfinite\n2.000"}),
        ([3, 0.01234, 2000], {2: "lowest 0.0123", 3: "final\n2e+03"}),
    ],
)
def test_the_lowest_and_the_final_loss_are_labelled(losses, labels):
    marked = drawn_datasets(with_losses(losses))["marked"]
    assert {each["step"]: each["label"] for each in marked} == labels


def test_each_validation_of_the_table_is_drawn_at_its_step():
    validations = drawn_datasets(training(24, val_loss={4: 3.0, 8: 3.0, 24: math.nan}))["validations"]
    assert validations == [{"step": 4, "loss": 3.0}, {"step": 8, "loss": 3.0}]


def test_the_step_of_a_validation_is_drawn_with_its_loss_however_long_the_training():
    steps = training(20_000, val_loss={7_777: 2.5}, val_num_samples={7_777: 10.0})
    rows = drawn_datasets(steps)["steps"]
    assert [(row["step"], row["validation"]) for row in rows if row["validation"] is not None] == [(7_777, 2.5)]


def test_intervals_without_a_finite_loss_reach_half_a_step_beyond_them():
    steps = training(24, loss={7: math.nan, 8: math.inf, 20: math.nan})
    assert drawn_datasets(steps)["broken"] == [
        {"from": 6.5, "to": 8.5},
        {"from": 19.5, "to": 20.5},
    ]


def test_a_field_that_no_step_has_is_not_drawn():
    assert set(drawn_datasets(with_losses([3.0, 2.0]))["steps"][0]) == {"step", "loss", "smoothed"}


def test_drawn_values_have_five_digits_and_none_for_nan():
    rows = drawn_datasets(training(3, loss={1: 1.23456789, 2: math.nan}, lr={3: 0.0001}))["steps"]
    assert [row["loss"] for row in rows][:2] == [1.2346, None] and rows[2]["lr"] == 0.0001


@pytest.mark.parametrize(
    ("steps", "drawable", "said"),
    [
        ([], False, "no step"),
        (training(1), False, "no curve to draw"),
        (with_losses([math.nan, math.inf]), False, "from the first step on"),
        (with_losses([math.nan, 2.0]), True, "in 1 of 2 steps"),
    ],
)
def test_a_training_without_a_curve_is_not_drawn_but_noted(steps, drawable, said):
    assert is_drawable(steps) is drawable
    assert said in " ".join(chart_notes(steps))


def test_a_sound_training_is_drawn_without_a_note():
    assert is_drawable(training(24)) and chart_notes(training(24)) == []


@pytest.mark.parametrize(
    ("loss", "text"), [(0.1, "0.100"), (999.9, "999.900"), (0.01234, "0.0123"), (2000.0, "2e+03"), (0.0, "0")]
)
def test_a_loss_is_reported_with_three_digits(loss, text):
    assert loss_text(loss) == text
