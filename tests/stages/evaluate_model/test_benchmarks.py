"""lm-evaluation-harness is imported only where a benchmark is asked for; here it runs a task of four questions."""

import json
import sys

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.evaluate_model.benchmarks import check_benchmarks, lm_eval_runs
from kfp_osft.stages.evaluate_model.measuring import measure

CAPITALS = {"Peru": "Lima", "Norway": "Oslo", "Ghana": "Accra", "Austria": "Vienna"}
CHOICES = [*CAPITALS.values()]
TASK = """\
task: capitals_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def tasks(tmp_path):
    """Folder with one task of four questions."""
    rows = [
        {"country": country, "choices": CHOICES, "answer": CHOICES.index(capital)}
        for country, capital in CAPITALS.items()
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/capitals.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))
    return tmp_path / "tasks"


def test_without_lm_eval_a_benchmark_is_refused_before_a_model_is_loaded(monkeypatch):
    # Another test of this process may have imported it.
    for module in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="benchmarks need lm-evaluation-harness, which is not installed here"):
        check_benchmarks(["arc_easy"], None)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="benchmarks_path=.*none is not a directory"):
        check_benchmarks(["arc_easy"], tmp_path / "none")


@pytest.mark.slow
def test_a_task_of_ones_own_runs_and_an_unknown_one_is_refused(tiny_model, tasks, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=f"benchmarks: capitals: not a task of lm-eval or of {tasks}"):
        check_benchmarks(["capitals_choice", "arc_easy", "capitals"], tasks)

    found = measure(tiny_model, texts={}, benchmarks=lm_eval_runs(["capitals_choice"], tasks))

    score = found.benchmarks["capitals_choice"]
    assert (score.metric, score.higher_is_better, score.samples) == ("acc", True, 4)
    assert score.value == pytest.approx(_accuracy(tiny_model))


def _accuracy(model_dir) -> float:
    """Share of the questions whose right answer the model holds for the likeliest, computed without lm-eval."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)

    def likelihood(question: str, choice: str) -> float:
        prompt = tokenizer(question, add_special_tokens=False)["input_ids"]
        whole = tokenizer(f"{question} {choice}", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(logs[at - 1, whole[at]].item() for at in range(len(prompt), len(whole)))

    right = [
        max(CHOICES, key=lambda choice, country=country: likelihood(f"The capital of {country} is", choice)) == capital
        for country, capital in CAPITALS.items()
    ]
    return sum(right) / len(right)
