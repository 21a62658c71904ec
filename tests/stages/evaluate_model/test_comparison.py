"""What two models' measures say side by side."""

import math

import pytest

from kfp_osft.stages.evaluate_model import comparison
from kfp_osft.stages.evaluate_model.benchmarks import Benchmark
from kfp_osft.stages.evaluate_model.comparison import Limits
from kfp_osft.stages.evaluate_model.measuring import Measure, ModelMeasures


def measures(task=4.0, text=3.0, earlier=2.0, match=0.1, score=0.5):
    return ModelMeasures(
        texts={"prose": Measure(text, 100, 1), "code": Measure(text, 300, 1)},
        rows={"task": Measure(task, 50, 10, match, 10), "first": Measure(earlier, 60, 10)},
        benchmarks={"arc": Benchmark("acc", score, True, 20)},
    )


def figures(**after):
    return comparison.compared(measures(), measures(**after), "task")


def test_improvement_is_the_relative_fall_of_the_loss_on_the_tasks_rows():
    assert comparison.improvement(figures(task=3.0)) == pytest.approx(0.25)
    assert comparison.improvement(comparison.compared(ModelMeasures(), ModelMeasures(), "task")) is None


@pytest.mark.parametrize(
    ("after", "name", "forgotten"),
    [
        ({"text": 3.3}, "general text", 0.1),
        ({"earlier": 3.0}, "first", 0.5),
        ({"score": 0.4}, "arc", 0.2),
        ({"text": 3.3, "score": 0.4}, "arc", 0.2),
    ],
)
def test_forgetting_is_the_largest_relative_change_for_the_worse_of_what_is_to_be_kept(after, name, forgotten):
    worst = comparison.forgetting(figures(**after))
    assert (worst.name, worst.loss_of_quality) == (name, pytest.approx(forgotten))
    assert comparison.metrics(figures(**after))["forgetting"] == pytest.approx(forgotten)


def test_learning_the_task_less_well_is_not_forgetting_and_learning_is_not_hidden_by_it():
    assert comparison.forgetting(figures(task=9.0)).loss_of_quality == 0
    assert comparison.improvement(figures(task=2.0, text=9.0)) == 0.5


@pytest.mark.parametrize(
    ("after", "limits", "reasons"),
    [
        ({"task": 2.0, "text": 3.1}, Limits(), []),
        ({"task": 2.0, "text": 3.1}, Limits(max_forgetting=0.03), ["the loss on general text rose by 3.3%"]),
        ({"task": 3.9}, Limits(min_improvement=0.1), ["the loss on task fell by 2.5%"]),
        ({"task": 4.4}, Limits(), ["the loss on task rose by 10.0%"]),
        ({"task": math.nan}, Limits(), ["the loss on task is not a number"]),
        ({"text": math.inf}, Limits(), ["the loss on general text is not a number"]),
        ({"earlier": 2.2, "score": 0.1}, Limits(), ["the loss on first rose by 10.0%", "the acc on arc fell by 80.0%"]),
    ],
)
def test_an_evaluation_fails_with_a_sentence_for_each_limit_that_does_not_hold(after, limits, reasons):
    found = comparison.failures(figures(**after), limits)
    assert len(found) == len(reasons)
    assert all(sentence.startswith(reason) for sentence, reason in zip(found, reasons, strict=True))


def test_the_metrics_are_flat_and_finite():
    found = comparison.metrics(figures(task=math.nan))
    assert found["general_text_loss_before"] == 3.0 and found["first_loss_after"] == 2.0
    assert found["arc_acc_before"] == 0.5 and found["held_out_exact_match_after"] == 0.1
    assert "held_out_loss_after" not in found and "improvement" not in found
    assert all(math.isfinite(value) for value in found.values())


def test_a_jump_of_the_general_loss_stands_next_to_what_the_weights_kept():
    verdict = comparison.with_drift("kept: 0.00% of the change", figures(text=6.0))
    assert verdict == (
        "kept: 0.00% of the change; but the loss on general text rose by 100.0%, from 3 to 6: the model forgot"
    )
    assert comparison.with_drift("kept", figures(text=3.1)).endswith("from 3 to 3.1: the model forgot")
    assert comparison.with_drift("kept: 0.00% of the change", figures(text=3.09)) == "kept: 0.00% of the change"
