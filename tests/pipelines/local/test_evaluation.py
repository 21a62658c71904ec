"""Evaluations on this computer: of two models, and of a run's."""

import json
import re
import shutil

import pytest

from conftest import TINY_TRAINING
from helpers.tiny_model import change_weights
from kfp_osft.pipelines import cli
from kfp_osft.pipelines.local.run import run_locally
from kfp_osft.shared.reporting.errors import TrainingError


@pytest.fixture
def tuned(tiny_model, tmp_path):
    """A model of which all weights changed a little."""
    folder = shutil.copytree(tiny_model, tmp_path / "tuned")
    change_weights(folder)
    return folder


def test_two_models_are_evaluated_and_the_gate_decides_about_the_exit_code(
    tiny_model, tuned, chat_rows, tmp_path, capsys
):
    command = ["evaluate", str(tiny_model), str(tuned), "--dataset", str(chat_rows), "--evaluation-rows", "4"]
    command += ["--output-dir", str(tmp_path / "out"), "--min-improvement", "0.9"]

    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "Not passed: the loss on held-out rows" in printed and "The weights are not compared: no" in printed
    result = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert result["passed"] is False and (tmp_path / "out/evaluation.html").is_file()

    assert cli.main([*command, "--gate"]) == 1
    captured = capsys.readouterr()
    assert "Base model: measured before" in captured.out
    assert captured.err.startswith("kfp-osft evaluate: the model does not pass the gate: the loss on held-out rows")


@pytest.mark.parametrize("how", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--max-forgetting", "-1"], "--max-forgetting=-1.0 is not allowed"),
        (["--min-improvement", "0.5"], "--min-improvement=0.5 needs held-out rows"),
        (["--earlier-tasks", "first=/no/rows"], "dataset /no/rows"),
        (["--benchmarks", "arc_easy", "--benchmarks-path", "/no/tasks"], "--benchmarks-path=/no/tasks is not a direc"),
        (["--benchmarks", "arc_easy", "--eval-hub-url", "hub:8080"], "--eval-hub-url=hub:8080 is not allowed"),
        (["--benchmarks", "arc_easy", "--eval-hub-url", "https://hub.invalid"], "its host name cannot be resolved"),
        (["--eval-hub-url", "https://hub.invalid"], "--eval-hub-url=https://hub.invalid needs benchmarks"),
    ],
)
def test_an_evaluation_that_is_impossible_is_refused_before_the_run(
    tiny_model, chat_rows, tmp_path, capsys, how, options, problem
):
    command = ["run", str(chat_rows), "--base-model", str(tiny_model), "--output-dir", str(tmp_path / "out")]
    assert cli.main([*command, "--evaluate", *options, *how]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--max-forgetting", "-1"], "--max-forgetting=-1.0 is not allowed; allowed: a number of at least 0"),
        (["--min-improvement", "0.5"], "--min-improvement=0.5 needs held-out rows"),
        (["--earlier-tasks", "first=/no/rows"], "dataset /no/rows"),
    ],
)
def test_bad_options_are_reported_in_one_line(tiny_model, tuned, tmp_path, capsys, options, problem):
    assert cli.main(["evaluate", str(tiny_model), str(tuned), "--output-dir", str(tmp_path), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kfp-osft evaluate: ") and problem in line


def test_parameters_of_an_evaluation_that_a_run_does_not_make_are_refused(chat_rows, capsys):
    assert cli.main(["run", "--dataset", str(chat_rows), "--max-forgetting", "0.1"]) == 2
    assert "kfp-osft run: --max-forgetting needs --evaluate" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_evaluated_on_the_rows_it_held_out_and_stopped_by_the_gate(
    users_kfp_local, store, tiny_model, chat_rows, tmp_path, capfd
):
    training = {"training_base_model": str(tiny_model), "training_validation_split": 0.25, **TINY_TRAINING}
    training["export_uri"] = "s3://models/of-a-run/passed"
    out = tmp_path / "out"

    run = run_locally(out, str(chat_rows), "train", training, evaluation={"max_forgetting": 1.0})

    assert run.report == out / "evaluation.html" and "<h2>Examples</h2>" in run.report.read_text()
    # kfp.local runs metrics and chart before or after it: neither needs the other.
    assert re.search(r"\[[5-7]/7\] Evaluate model\n", capfd.readouterr().out)
    card = (run.model / "README.md").read_text()
    assert "## Evaluation" in card and "| held-out rows | loss |" in card
    figures = json.loads((run.model / "osft_run.json").read_text())["evaluation"]["metrics"]
    assert figures["held_out_loss_after"] < figures["held_out_loss_before"] and figures["improvement"] > 0

    pushed = store.client.get_object(Bucket="models", Key="of-a-run/passed/README.md")["Body"].read().decode()
    assert pushed == card

    # The stages before it return at once, and both models were measured before.
    training["export_uri"] = "s3://models/of-a-run/stopped"
    with pytest.raises(TrainingError, match="gate: the loss on held-out rows .* Nothing was published to s3://models/"):
        run_locally(out, str(chat_rows), "train", training, evaluation={"gate": True, "min_improvement": 0.99})
    assert "Tuned model: measured before" in capfd.readouterr().out
    assert "Contents" not in store.client.list_objects_v2(Bucket="models", Prefix="of-a-run/stopped")
