import pytest

from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.stages.export_model.findings import findings

_WHOLE = Coverage(100, 100, 40, ["q_proj"], ["layers.*.q_proj.weight"], [])
_PART = Coverage(11, 100, 40, ["q_proj"], ["layers.*.q_proj.weight"], ["layers.*.experts.weight"])


def _told(metrics: dict, coverage: Coverage | None = _WHOLE, **more) -> str:
    return "\n".join(findings(metrics, coverage, **more))


def test_a_loss_that_fell_is_told_to_be_learning_and_one_that_did_not_is_not():
    fell = {"first_loss": 5.1, "mean_loss_last_tenth": 1.76, "steps": 24}

    assert "5.100 at the first step, 1.760 over the last tenth of 24 steps: the model learnt from them." in _told(fell)
    assert "It did not fall: the model learnt next to nothing" in _told({**fell, "mean_loss_last_tenth": 5.08})


def test_a_model_of_which_osft_limited_little_is_told_to_be_mostly_plain_fine_tuned():
    assert "as in plain fine-tuning" not in _told({})
    assert "OSFT limits 11% of the weights" in _told({}, _PART)
    assert "Most of the layers' weights were trained as in plain fine-tuning: expect forgetting" in _told({}, _PART)


def test_what_was_kept_is_the_checks_verdict_or_told_not_to_be_measured():
    assert "was not measured; kfp-osft check does it" in _told({})
    assert "measured in the weights: kept: 0.02% at most." in _told({}, verdict="kept: 0.02% at most")


@pytest.mark.parametrize(
    ("before", "after", "change", "meaning"),
    [
        (2.85, 2.86, "1% more perplexity", "practically the same"),
        (2.85, 2.94, "9% more perplexity", "a little worse than before"),
        (3.3, 3.55, "28% more perplexity", "worse than before, the model forgot"),
        (5.1, 1.76, "96% less perplexity", "better than before"),
    ],
)
def test_losses_before_and_after_are_told_with_what_they_mean(before, after, change, meaning):
    told = _told({"general_text_loss_before": before, "general_text_loss_after": after})

    assert f"a general text: {before:.3f} before, {after:.3f} after ({change}), which is {meaning}." in told


def test_what_the_rows_of_the_task_say_is_told_only_where_there_were_some():
    assert "not trained on" not in _told({})
    told = _told({"held_out_loss_before": 2.0, "held_out_loss_after": 3.0})
    assert "not trained on: 2.000 before, 3.000 after (172% more perplexity), which is worse than before, the" in told


def test_warnings_of_the_training_are_in_it():
    assert _told({}, None, warnings=["The loss did not fall."]).endswith("Warning: The loss did not fall.")
