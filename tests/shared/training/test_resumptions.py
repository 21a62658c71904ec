"""Where a training went on is in its table."""

from pathlib import Path

import pytest

from kfp_osft.shared.training.metrics import _RESUMED_FILE, resumptions, with_resumptions
from kfp_osft.stages.launch_trainjob.train_resume import RESUMED_FILE

STEPS = [{"step": step, "loss": 1.0} for step in (1, 2, 3, 5, 6)]


@pytest.mark.parametrize(
    ("noted", "marked"),
    [
        ('{"after_step": 2}\n', {3: 2}),
        ('{"after_step": 2}\n{"after_step": 2}\n{"after_step": 5}\n', {3: 2, 6: 5}),
        # The line of step 4 was lost.
        ('{"after_step": 3}\n', {5: 3}),
        # Nothing came after.
        ('{"after_step": 6}\n', {}),
        ('{"after_step": 2}\n{"after_st', {3: 2}),
        ("null\n[]\n{}\n", {}),
    ],
)
def test_the_first_step_after_resuming_says_after_which(tmp_path: Path, noted: str, marked: dict[int, int]):
    (tmp_path / RESUMED_FILE).write_text(noted)
    steps = with_resumptions(STEPS, tmp_path)
    assert {step["step"]: step["resumed_after"] for step in steps if "resumed_after" in step} == marked
    assert resumptions(steps) == list(marked.values())
    assert [step["step"] for step in steps] == [1, 2, 3, 5, 6]


def test_a_training_in_one_go_stays_as_it_is(tmp_path: Path):
    assert with_resumptions(STEPS, tmp_path) == STEPS and resumptions(STEPS) == []


def test_the_file_is_that_of_the_training_script():
    assert _RESUMED_FILE == RESUMED_FILE
