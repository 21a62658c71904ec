"""The whole evaluation of two models: result, page, card, gate."""

import json
import shutil
from types import SimpleNamespace

import pytest

from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.evaluate_model import evaluation as module
from kfp_osft.stages.evaluate_model import measuring
from kfp_osft.stages.evaluate_model.evaluation import evaluate_model
from kfp_osft.stages.export_model.findings import findings


class Metrics(dict):
    def __init__(self):
        super().__init__()
        self.metadata = {}

    def log_metric(self, name, value):
        self[name] = value


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    monkeypatch.setattr(measuring, "general_texts", lambda: {"prose": ["Take the train to Vienna."]})


@pytest.fixture
def evaluate(tmp_path):
    """Runs the stage's function; returns its output and the metrics."""

    def run(**arguments):
        report = SimpleNamespace(path=str(tmp_path / "artifact/report"), uri=str(tmp_path / "artifact/report"))
        metrics = Metrics()
        return evaluate_model(str(tmp_path / "pvc"), report, metrics, **arguments), metrics

    return run


def test_two_models_are_compared_on_rows_texts_earlier_tasks_and_weights(
    evaluate, tiny_model, tuned, chat_rows, tmp_path
):
    done, metrics = evaluate(
        base_model=str(tiny_model),
        tuned_model=str(tuned),
        dataset_path=str(chat_rows),
        earlier_tasks=f"first={chat_rows}",
        evaluation_rows=4,
    )

    result = json.loads((tmp_path / "pvc/evaluations/tuned/evaluation.json").read_text())
    assert done.evaluation_path == str(tmp_path / "pvc/evaluations/tuned/evaluation.json")
    assert done.passed is result["passed"] is bool(metrics["passed"])
    assert metrics == result["metrics"]
    assert metrics["held_out_loss_before"] != metrics["held_out_loss_after"] == metrics["first_loss_after"]
    assert metrics["kept_subspace_leak_max"] > 0.5 and result["weights"].startswith("leaked: up to ")
    assert result["before"]["rows"]["held-out rows"]["rows"] == 4
    page = (tmp_path / "artifact/report").read_text()
    assert page == (tmp_path / "pvc/evaluations/tuned/evaluation.html").read_text()


def test_the_run_of_a_checkpoint_folder_names_models_ratio_and_held_out_rows(
    evaluate, tiny_model, tuned, chat_rows, tmp_path
):
    folder = make_trained_folder(tmp_path / "pvc/checkpoints/abc", tiny_model)
    shutil.copytree(tuned, tmp_path / "pvc/models/abc")
    run = json.loads((folder / "osft_run.json").read_text())
    (folder / "osft_run.json").write_text(json.dumps(run | {"data": {"validation_path": str(chat_rows)}}))

    done, metrics = evaluate(checkpoint_dir=str(folder), evaluation_rows=4)

    assert done.evaluation_path == str(tmp_path / "pvc/evaluations/abc/evaluation.json")
    assert {"held_out_loss_after", "general_text_loss_after", "kept_subspace_leak_max"} <= metrics.keys()


def test_the_card_gets_a_section_which_the_next_evaluation_replaces(evaluate, tiny_model, tuned, chat_rows):
    before = (tuned / "README.md").read_text()
    for limit in (0.5, 0.6):
        evaluate(base_model=str(tiny_model), tuned_model=str(tuned), max_forgetting=limit)
    card = (tuned / "README.md").read_text()
    assert card.count("## Evaluation") == 1 and "forgetting of at most 60.0%" in card
    begin, end = card.index("## Evaluation"), card.index("## Use it")
    assert card[:begin] + card[end:] == before
    run = json.loads((tuned / "osft_run.json").read_text())
    assert run["model_name"] == "tiny-osft" and run["evaluation"]["passed"] is True


def test_the_card_no_longer_says_that_what_was_measured_now_was_not(evaluate, tiny_model, tuned):
    unmeasured = findings({}, None)
    card = (tuned / "README.md").read_text()
    (tuned / "README.md").write_text(
        card.replace("## Use it", "".join(f"- {line}\n" for line in unmeasured) + "## Use it")
    )
    assert (tuned / "README.md").read_text().count("not measured") == 2

    evaluate(base_model=str(tiny_model), tuned_model=str(tuned))

    assert "not measured" not in (tuned / "README.md").read_text()


def test_with_the_gate_a_model_that_does_not_pass_fails_the_stage_and_the_report_is_there(
    evaluate, tiny_model, tuned, chat_rows, tmp_path
):
    arguments = {"base_model": str(tiny_model), "tuned_model": str(tuned), "dataset_path": str(chat_rows)}
    limits = {"min_improvement": 0.9, "evaluation_rows": 4}
    done, _ = evaluate(**arguments, **limits)
    assert done.passed is False

    with pytest.raises(TrainingError, match="gate: the loss on held-out rows .* short of min_improvement=0.9. The rep"):
        evaluate(**arguments, **limits, gate=True)
    assert "short of min_improvement=0.9" in (tmp_path / "pvc/evaluations/tuned/evaluation.html").read_text()


def test_a_model_that_passes_is_published_with_its_evaluation_and_one_that_does_not_is_not(
    evaluate, store, tiny_model, tuned, chat_rows
):
    arguments = {"base_model": str(tiny_model), "tuned_model": str(tuned), "dataset_path": str(chat_rows)}
    arguments |= {"evaluation_rows": 4, "gate": True}

    with pytest.raises(TrainingError, match="short of .* Nothing was published to s3://models/gated/tiny. The report"):
        evaluate(**arguments, min_improvement=0.9, export_uri="s3://models/gated/tiny")
    assert "Contents" not in store.client.list_objects_v2(Bucket="models", Prefix="gated/")

    _, metrics = evaluate(**arguments, max_forgetting=9.0, min_improvement=-9.0, export_uri=" s3://models/gated/tiny/ ")
    assert metrics.metadata == {"export_uri": "s3://models/gated/tiny"}
    card = store.client.get_object(Bucket="models", Key="gated/tiny/README.md")["Body"].read().decode()
    assert "## Evaluation" in card and "**Passed**" in card


def test_without_the_gate_a_model_is_published_whatever_came_out(evaluate, store, tiny_model, tuned, chat_rows):
    done, metrics = evaluate(
        base_model=str(tiny_model),
        tuned_model=str(tuned),
        dataset_path=str(chat_rows),
        evaluation_rows=4,
        min_improvement=0.9,
        export_uri="s3://models/told/tiny",
    )
    assert done.passed is False and metrics.metadata == {"export_uri": "s3://models/told/tiny"}
    assert store.client.head_object(Bucket="models", Key="told/tiny/config.json")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "give checkpoint_dir of a run, or base_model and tuned_model"),
        (
            {"checkpoint_dir": "/no/checkpoints"},
            "/no/checkpoints has no osft_run.json: it is not known what was trained there",
        ),
        ({"export_uri": "gs://models/tiny"}, "export_uri=gs://models/tiny is not allowed; allowed: s3://bucket/prefix"),
        ({"tuned_model": "/no/model"}, "tuned_model=/no/model: not a model folder"),
        ({"dataset_path": "/no/rows.jsonl"}, "dataset /no/rows.jsonl"),
        ({"min_improvement": 0.1}, "min_improvement=0.1 needs held-out rows"),
        ({"max_forgetting": -1.0}, "max_forgetting=-1.0 is not allowed"),
        ({"earlier_tasks": "rows"}, "earlier_tasks: an item has no '='"),
        ({"earlier_tasks": "first=/no/rows.jsonl"}, "dataset /no/rows.jsonl"),
        ({"benchmarks": "arc", "benchmarks_path": "/no"}, "benchmarks_path=/no is not a directory"),
    ],
)
def test_bad_input_is_reported_before_a_model_is_loaded(evaluate, tiny_model, tuned, monkeypatch, arguments, problem):
    monkeypatch.setattr(module, "measure", lambda *args, **kwargs: pytest.fail("measured"))
    models = {"base_model": str(tiny_model), "tuned_model": str(tuned)}
    if arguments and "checkpoint_dir" not in arguments:
        arguments = {**models, **arguments}
    with pytest.raises(InputError, match=problem):
        evaluate(**arguments)


def test_all_bad_parameters_are_reported_at_once():
    with pytest.raises(InputError) as caught:
        module.checked_options({"max_forgetting": -1.0, "evaluation_rows": 0, "limit": 3})
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == [
        "limit is not a parameter of an evaluation",
        "max_forgetting",
        "evaluation_rows",
    ]
