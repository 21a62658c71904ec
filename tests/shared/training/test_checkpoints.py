import os
from pathlib import Path

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.checkpoints import checkpoints, first_sound


def _folders(place: Path, *names: str) -> Path:
    for name in names:
        (place / "hf_format" / name).mkdir(parents=True)
    return place


def _names(place: Path, steps=(), losses=None) -> list[str]:
    return [checkpoint.folder.name for checkpoint in checkpoints(place, steps, losses)]


def test_without_a_validation_the_most_samples_come_first_whatever_the_file_times(tmp_path: Path):
    _folders(tmp_path, "samples_128.0", "samples_64.0", "samples_9.0")
    os.utime(tmp_path / "hf_format/samples_128.0", (1, 1))

    assert _names(tmp_path) == ["samples_128.0", "samples_64.0", "samples_9.0"]


def test_with_validations_the_lowest_loss_comes_first_and_what_was_not_validated_last(tmp_path: Path):
    _folders(tmp_path, "samples_16.0", "samples_32.0", "samples_48.0", "samples_64.0")

    assert _names(tmp_path, losses={16.0: 3.0, 32.0: 2.0, 48.0: 2.5}) == [
        "samples_32.0",
        "samples_48.0",
        "samples_16.0",
        "samples_64.0",
    ]


def test_the_last_best_of_the_trainer_comes_first_where_no_line_tells_its_loss(tmp_path: Path):
    _folders(tmp_path, "samples_16.0_best_val_loss", "samples_48.0_best_val_loss", "samples_64.0")

    assert _names(tmp_path) == ["samples_48.0_best_val_loss", "samples_16.0_best_val_loss", "samples_64.0"]


def test_a_validation_loss_that_is_told_counts_for_the_best_of_the_trainer_too(tmp_path: Path):
    # With a threshold mini-trainer passes over small improvements; the epoch's checkpoint can be the better one.
    _folders(tmp_path, "samples_16.0_best_val_loss", "samples_32.0")

    assert _names(tmp_path, losses={16.0: 2.0, 32.0: 1.99}) == ["samples_32.0", "samples_16.0_best_val_loss"]


def test_what_is_no_checkpoint_of_the_trainer_is_none_here(tmp_path: Path):
    _folders(tmp_path, "samples_x", "samples_8.0.unfinished", "other", "samples_8.0_best")

    assert _names(tmp_path) == []


def test_step_and_validation_loss_are_told_by_the_samples(tmp_path: Path):
    _folders(tmp_path, "samples_16.0", "samples_24.0")
    steps = [{"step": 2, "total_samples_accumulated": 16.0}]

    told = [checkpoint.description for checkpoint in checkpoints(tmp_path, steps, {16.0: 2.0})]

    assert told == ["samples_16.0 (step 2, validation loss 2)", "samples_24.0"]


def test_one_with_a_problem_is_passed_over_and_said(tmp_path: Path, capsys):
    _folders(tmp_path, "samples_8.0", "samples_16.0")

    chosen = first_sound(tmp_path, checkpoints(tmp_path), lambda folder: "cut" if "16" in folder.name else None)

    assert chosen.folder.name == "samples_8.0"
    assert capsys.readouterr().out == "Warning: checkpoint samples_16.0 is passed over: cut\n"


def test_when_all_have_problems_the_error_tells_them(tmp_path: Path):
    _folders(tmp_path, "samples_8.0")

    with pytest.raises(InputError, match=r"no complete checkpoint in .*/hf_format \(samples_8.0: cut\)"):
        first_sound(tmp_path, checkpoints(tmp_path), lambda folder: "cut")
