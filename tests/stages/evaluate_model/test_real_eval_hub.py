"""A real Eval Hub over https, whose jobs run a real lm-evaluation-harness on the models that the stage serves."""

import json
import shutil

import pytest

from helpers.real_eval_hub import lm_eval_provider, real_eval_hub
from kfp_osft.shared.model.loss import loaded_model
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.evaluate_model import eval_hub, measuring
from kfp_osft.stages.evaluate_model.benchmarks import lm_eval_runs
from kfp_osft.stages.evaluate_model.eval_hub import TOKENIZER
from kfp_osft.stages.evaluate_model.evaluation import MEASUREMENTS, evaluate, models_of
from kfp_osft.stages.evaluate_model.greedy_answers import greedy_answers
from kfp_osft.stages.evaluate_model.hub_api import TENANT, TOKEN
from kfp_osft.stages.evaluate_model.measuring import measure
from kfp_osft.stages.evaluate_model.options import Options

CAPITALS = {"Peru": "Lima", "Norway": "Oslo", "Ghana": "Accra", "Austria": "Vienna"}
#: Name -> metric: a choice by likelihood, the likelihood of whole texts, and text that is generated.
TASKS = {"capitals_choice": "acc", "capitals_text": "bits_per_byte", "capitals_answer": "exact_match"}
QUESTION = "The capital of {{country}} is"
_SPECIFIC = {
    "capitals_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": QUESTION,
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "capitals_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": f"{QUESTION} {{{{capital}}}}.",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "capitals_answer": {
        "output_type": "generate_until",
        "doc_to_text": QUESTION,
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [" of"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


@pytest.fixture
def base(tmp_path, tiny_model):
    """Folder of the base model, by whose name the hub knows it."""
    return shutil.copytree(tiny_model, tmp_path / "base")


@pytest.fixture
def tasks(tmp_path, tiny_model):
    """Folder of three tasks with four questions each, to one of which the base model's own answers are the right
    ones."""
    with loaded_model(tiny_model) as (model, tokenizer):
        prompts = [tokenizer(f"The capital of {country} is")["input_ids"] for country in CAPITALS]
        answers = [
            tokenizer.decode(answer, skip_special_tokens=True).partition(" of")[0]
            for answer in greedy_answers(model, tokenizer, prompts, [12] * len(prompts))
        ]
    choices = [*CAPITALS.values()]
    rows = [
        {"country": country, "capital": capital, "choices": choices, "right": at, "answer": answers[at]}
        for at, (country, capital) in enumerate(CAPITALS.items())
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, specific in _SPECIFIC.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, "test_split": "test", **specific}))
    return folder


@pytest.fixture
def hub(tmp_path, tasks, tiny_model, monkeypatch):
    monkeypatch.setattr(measuring, "general_texts", dict)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv(TOKEN, "a-token-of-some-length")
    monkeypatch.setenv(TENANT, "some-project")
    monkeypatch.setenv(TOKENIZER, str(tiny_model))
    # A program that ends without a word leaves its job pending.
    monkeypatch.setattr(eval_hub, "_IDLE_SECONDS", 120.0)
    # As on a GPU.
    monkeypatch.setattr(eval_hub, "_BATCH_ON_CPU", 3)
    (tmp_path / "hub").mkdir()
    with real_eval_hub(tmp_path / "hub", {"lm_evaluation_harness": lm_eval_provider(tasks, TASKS)}) as hub:
        monkeypatch.setenv("SSL_CERT_FILE", str(hub.ca))
        yield hub


@pytest.mark.slow
def test_base_and_tuned_model_get_the_scores_that_lm_eval_gives_here_each_under_its_own_name(
    hub, tasks, base, tuned, tmp_path, capsys
):
    names = ("lm_evaluation_harness/capitals_choice", "capitals_text", "capitals_answer")
    options = Options(benchmarks=names, eval_hub_url=hub.url)
    models = models_of(str(base), str(tuned))

    result = evaluate(models, None, options, tmp_path / "result", tmp_path / MEASUREMENTS)

    for model, found in ((base, result.before), (tuned, result.after)):
        here = measure(model, texts={}, benchmarks=lm_eval_runs([*TASKS], tasks)).benchmarks
        for name, benchmark in found.benchmarks.items():
            task = name.rpartition("/")[2]
            assert (benchmark.metric, benchmark.samples) == (TASKS[task], 4)
            assert here[task].metric == benchmark.metric
            assert benchmark.value == pytest.approx(here[task].value, rel=1e-5)
    assert result.before.benchmarks["capitals_answer"].value == 1.0
    values = [[each.value for each in found.benchmarks.values()] for found in (result.before, result.after)]
    assert values[0] != values[1]
    assert result.metrics()["capitals_text_bits_per_byte_before"] == values[0][1]
    jobs = hub.jobs()
    assert [job["model"]["name"] for job in jobs] == ["base"] * 3 + ["tiny-osft"] * 3
    assert {job["status"]["state"] for job in jobs} == {"completed"}
    assert {job["resource"]["tenant"] for job in jobs} == {"some-project"}
    printed = capsys.readouterr().out
    assert "a-token-of-some-length" not in printed + json.dumps(jobs) + "".join(map(hub.log_of, jobs))

    # The base model is not measured twice.
    evaluate(models, None, options, tmp_path / "result", tmp_path / MEASUREMENTS)
    assert len(hub.jobs()) == 6


@pytest.mark.slow
def test_a_job_that_fails_says_why(hub, tiny_model, tuned, tmp_path, monkeypatch):
    monkeypatch.setenv(TOKENIZER, str(tmp_path / "no-tokenizer"))
    options = Options(benchmarks=("capitals_text",), eval_hub_url=hub.url)
    with pytest.raises(InputError, match="capitals_text: job .* of eval_hub_url=.*: failed: .*no-tokenizer"):
        evaluate(models_of(str(tiny_model), str(tuned)), None, options, tmp_path / "result", None)
