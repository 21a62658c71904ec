"""Tasks one after the other: what is trained, what is measured, what is written."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import TINY_TRAINING
from helpers.trained_folder import make_trained_folder
from kfp_osft.pipelines import cli
from kfp_osft.pipelines.local.run import LocalRun
from kfp_osft.pipelines.sequence import sequence as module
from kfp_osft.pipelines.sequence.plan import plan_of
from kfp_osft.pipelines.sequence.sequence import run_sequence
from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.stages.evaluate_model import measuring
from kfp_osft.stages.evaluate_model.options import Options
from kfp_osft.stages.export_model.placing import place_files


@pytest.fixture
def trained(monkeypatch, tmp_path, chat_rows):
    """Takes the place of the local run: each model is a copy of its base; returns what was trained, and from what."""
    calls = []
    monkeypatch.setattr(measuring, "general_texts", lambda: {"prose": ["Take the train to Vienna."]})

    def run_locally(output_dir, dataset, split, training, *others):
        if output_dir.name in failing:
            raise TrainingError("exit code 1")
        base = Path(training["training_base_model"])
        calls.append((output_dir.name, base.parent.parent.name, training["training_unfreeze_rank_ratio"]))
        folder = make_trained_folder(output_dir / "checkpoints/abc", base)
        run = json.loads((folder / "osft_run.json").read_text())
        (folder / "osft_run.json").write_text(json.dumps(run | {"data": {"validation_path": str(chat_rows)}}))
        model = output_dir / "models/abc"
        model.mkdir(parents=True)
        place_files(base, model)
        return LocalRun(model, {}, output_dir / "c.html", folder / "metrics.jsonl", output_dir / "run.log")

    failing: set[str] = set()
    monkeypatch.setattr(module, "run_locally", run_locally)
    return SimpleNamespace(calls=calls, failing=failing)


@pytest.fixture
def plan(tiny_model, chat_rows):
    def make(*names, **content):
        tasks = [{"name": name, "dataset": str(chat_rows)} for name in names]
        return plan_of({"base_model": str(tiny_model), "tasks": tasks, **content})

    return make


OPTIONS = Options(rows=3)


def test_each_task_starts_from_the_model_before_it_with_its_own_ratio(trained, plan, tmp_path):
    result = run_sequence(plan("one", "two", "three", schedule="falling"), tmp_path / "out", OPTIONS)

    assert [call[::2] for call in trained.calls] == [("one", 0.25), ("two", 0.125), ("three", 0.0625)]
    assert [call[1] for call in trained.calls[1:]] == ["one", "two"]
    assert [len(row) for row in result.losses()] == [1, 2, 3]
    assert result.metrics()["loss_backward_transfer"] == 0 and result.metrics()["average_loss"] > 0
    assert all(each.kept.startswith("unchanged: no weight changed") for each in result.learnt)


def test_what_is_done_is_not_trained_again_and_a_task_at_the_end_is_all_that_is(trained, plan, tmp_path):
    run_sequence(plan("one", "two"), tmp_path / "out", OPTIONS)
    run_sequence(plan("one", "two"), tmp_path / "out", OPTIONS)
    assert [call[0] for call in trained.calls] == ["one", "two"]

    run_sequence(plan("one", "two", "three"), tmp_path / "out", OPTIONS)
    assert [call[0] for call in trained.calls] == ["one", "two", "three"]


def test_a_sequence_that_failed_goes_on_with_the_task_that_is_not_done(trained, plan, tmp_path):
    trained.failing.add("two")
    with pytest.raises(TrainingError):
        run_sequence(plan("one", "two"), tmp_path / "out", OPTIONS)
    assert json.loads((tmp_path / "out/sequence.json").read_text())["tasks"][0]["name"] == "one"

    trained.failing.clear()
    result = run_sequence(plan("one", "two"), tmp_path / "out", OPTIONS)
    assert [call[0] for call in trained.calls] == ["one", "two"] and result.names == ["one", "two"]


def test_another_parameter_of_a_task_trains_it_and_all_after_it_anew(trained, plan, tmp_path):
    run_sequence(plan("one", "two"), tmp_path / "out", OPTIONS)
    trained.calls.clear()
    for folder in ("one", "two"):
        (tmp_path / "out" / folder).rename(tmp_path / f"earlier-{folder}")
        (tmp_path / "out" / folder).mkdir()
        (tmp_path / f"earlier-{folder}/done.json").rename(tmp_path / f"out/{folder}/done.json")
    run_sequence(plan("one", "two", unfreeze_rank_ratio=0.2), tmp_path / "out", OPTIONS)
    assert [call[0] for call in trained.calls] == ["one", "two"]


def test_page_and_card_tell_the_lineage_the_matrices_and_the_drift(trained, plan, tiny_model, tmp_path):
    result = run_sequence(plan("one", "two"), tmp_path / "out", OPTIONS)
    card = (tmp_path / "out/README.md").read_text()
    assert f"Base model: {tiny_model.name}. " in card and str(tiny_model) not in card
    assert "| 1 | one | 0.25 | +0.0% | +0.0% | unchanged" in card and "## Loss after each task" in card
    page = (tmp_path / "out/sequence.html").read_text()
    assert f"<p>OSFT of {tiny_model.name}" in page and str(tiny_model) not in page
    assert 'id="losses"' in page and "Trainings and drift" in page and "vegaEmbed" in page
    stored = json.loads((tmp_path / "out/sequence.json").read_text())
    assert stored["metrics"] == result.metrics() and stored["losses"] == result.losses()


@pytest.mark.slow
def test_two_tasks_are_learnt_for_real(users_kfp_local, tiny_model, chat_rows, tmp_path, capfd):
    plan = {
        "base_model": str(tiny_model),
        "training": {**TINY_TRAINING, "training_num_epochs": 1},
        "tasks": [{"name": "first", "dataset": str(chat_rows)}, {"name": "second", "dataset": str(chat_rows)}],
    }
    (tmp_path / "tasks.yaml").write_text(json.dumps(plan))
    command = ["sequence", str(tmp_path / "tasks.yaml"), "--output-dir", str(tmp_path / "out")]
    assert cli.main([*command, "--evaluation-rows", "3"]) == 0
    stored = json.loads((tmp_path / "out/sequence.json").read_text())
    assert stored["losses"][1][0] < stored["base"]["rows"]["first"]["loss"]
    assert all(task["kept"].startswith("kept: ") for task in stored["tasks"])
    card = (Path(stored["tasks"][1]["model"]) / "README.md").read_text()
    assert "## Trainings" in card
    assert "average_loss" in capfd.readouterr().out
