"""The lines at the end of a local run."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.tiny_model import change_weights
from helpers.trained_folder import make_trained_folder
from kfp_osft.pipelines.local.run import LocalRun
from kfp_osft.pipelines.local.summary import QuickCheck, check_local_run, show_run, summary_lines
from kfp_osft.shared.training.metrics import read_steps
from kfp_osft.stages.evaluate_model.comparison import ALL_TEXTS, GENERAL, Compared


@pytest.fixture
def run(tiny_model, tmp_path):
    """A run as it is left, with a model that changed everywhere."""
    checkpoint_dir = make_trained_folder(tmp_path / "checkpoints", tiny_model)
    model = tmp_path / "final model"
    shutil.copytree(tiny_model, model)
    change_weights(model)
    published = {
        "model_name": "final",
        "base_model": {"name": "tiny"},
        "dataset": {"name": "rows.jsonl"},
        "checkpoint": {"description": "of step 8"},
        "parameters": {},
        "metrics": {},
        "library_versions": {},
    }
    (model / "osft_run.json").write_text(json.dumps(published))
    metrics = {
        "samples": 64.0,
        "tokens": 2000.0,
        "wall_clock_seconds": 95.2,
        "median_tokens_per_second": 512.3,
        "rows_kept": 32,
        "rows_too_long": 1,
        "rows_too_short": 2,
    }
    return LocalRun(
        model, metrics, tmp_path / "loss_chart.html", checkpoint_dir / "metrics.jsonl", tmp_path / "run.log"
    )


def test_a_run_is_summarized_in_ten_lines(run, tiny_model):
    lines = summary_lines(run, read_steps(run.steps.parent), check_local_run(run))
    assert [line.split()[0] for line in lines] == [
        "Loss",
        "Trained",
        "Rows",
        "Weights",
        "General",
        "Model",
        "Metrics",
        "Chart",
        "Log",
        "Evaluate",
    ]
    assert lines[:3] == [
        "Loss     5.750 at the first step, 4.000 at the last of 8, lowest 4.000 at step 8",
        "Trained  64 samples, 2,000 tokens, 512 tokens/s; 1 min 35 s with loading and saving",
        "Rows     32 trained on, 3 dropped for their length",
    ]
    assert lines[3].startswith("Weights  leaked: up to ") and "looked at 6 of 14 limited matrices" in lines[3]
    # A line to copy: names with blanks are quoted.
    assert lines[-1] == f"Evaluate kfp-osft evaluate {tiny_model} '{run.model}'"


def test_rows_that_were_held_out_add_a_line(run, chat_rows):
    check = check_local_run(run, chat_rows)
    (line,) = [line for line in summary_lines(run, read_steps(run.steps.parent), check) if line.startswith("Task")]
    assert line.startswith("Task     ") and " perplexity on held-out rows (" in line


def test_the_summary_says_what_to_think_of_the_loss_on_a_general_text(run):
    check = QuickCheck("kept", [Compared(GENERAL, ALL_TEXTS, "loss", 3.30, 3.55, True, 100)])
    (line,) = [line for line in summary_lines(run, read_steps(run.steps.parent), check) if line.startswith("General")]
    assert line == (
        "General  28% more perplexity on a general text (27.1 before, 34.8 after): worse than before, the model "
        "forgot; a lower learning rate or unfreeze rank ratio keeps more"
    )


@pytest.mark.parametrize(
    ("last", "lowest", "told"),
    [
        (2.0, 2.0, "validation loss 2.000 at the end, the lowest of all or next to it"),
        (
            2.3,
            2.0,
            "validation loss 2.300 at the end, 2.000 at the lowest: it rose again, fewer epochs or a lower learning "
            "rate may do",
        ),
    ],
)
def test_the_validation_losses_are_told_with_whether_they_rose_again(run, last, lowest, told):
    run = run._replace(metrics={**run.metrics, "validation_loss": last, "lowest_validation_loss": lowest})
    assert f"Held out {told}" in summary_lines(run, read_steps(run.steps.parent), None)


def test_on_a_terminal_lines_are_wrapped_between_words_and_paths_stay_whole(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    run = run._replace(log=Path("/home/somebody/" + "folder/" * 12 + "run.log"))
    show_run(run, read_steps(run.steps.parent), None)
    lines = capsys.readouterr().out.splitlines()
    assert f"Log      {run.log}" in lines or f"         {run.log}" in lines
    assert all(len(line) <= 60 for line in lines if line.startswith(("Loss", "Trained", "Rows")))


def test_the_figures_of_the_check_lie_beside_the_metrics(run):
    check = check_local_run(run)
    figures = json.loads((run.steps.parent / "kept_knowledge.json").read_text())
    assert figures["general_text_loss_after"] == check.losses[0].after and figures["kept_subspace_matrices"] == 6


def test_a_large_model_is_not_loaded_unasked_and_the_summary_says_how_to_ask(run, monkeypatch):
    monkeypatch.setattr("kfp_osft.pipelines.local.small_model._LARGEST", 1000)
    assert check_local_run(run) is None
    lines = summary_lines(run, read_steps(run.steps.parent), None)
    assert not any(line.startswith(("Weights", "General")) for line in lines) and lines[-1].startswith("Evaluate ")


def test_a_check_that_fails_does_not_make_the_run_fail(run, tiny_model, tmp_path, capsys):
    run_file = run.steps.parent / "osft_run.json"
    run_file.write_text(run_file.read_text().replace(json.dumps(str(tiny_model)), json.dumps(str(tmp_path / "gone"))))
    assert check_local_run(run) is None
    assert "It could not be measured: training_base_model=" in capsys.readouterr().out
    assert not (run.steps.parent / "kept_knowledge.json").exists()
