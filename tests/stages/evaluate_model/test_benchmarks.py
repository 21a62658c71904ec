"""lm-evaluation-harness is asked for by name, and the real one runs where it is installed."""

import importlib.util
import json

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.evaluate_model.benchmarks import check_benchmarks
from kfp_osft.stages.evaluate_model.measuring import measure

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
with_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")


@pytest.fixture
def tasks(tmp_path):
    """Folder with one task of four questions."""
    choices = ["Lima", "Oslo", "Accra"]
    rows = [{"country": name, "choices": choices, "answer": at} for at, name in enumerate(("Peru", "Norway", "Ghana"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/capitals.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))
    return tmp_path / "tasks"


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_a_benchmark_is_refused_before_a_model_is_loaded():
    with pytest.raises(InputError, match="benchmarks need lm-evaluation-harness, which is not installed here"):
        check_benchmarks(["arc_easy"], None)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="benchmarks_path=.*none is not a directory"):
        check_benchmarks(["arc_easy"], tmp_path / "none")


@pytest.mark.slow
@with_lm_eval
def test_a_task_of_ones_own_runs_and_an_unknown_one_is_refused(tiny_model, tasks):
    check_benchmarks(["capitals_choice", "arc_easy"], tasks)
    with pytest.raises(InputError, match=f"benchmarks: capitals: not a task of lm-eval or of {tasks}"):
        check_benchmarks(["capitals"], tasks)

    found = measure(tiny_model, texts={}, benchmarks=["capitals_choice"], benchmarks_path=tasks)

    score = found.benchmarks["capitals_choice"]
    assert (score.metric, score.higher_is_better, score.samples) == ("acc", True, 3) and 0 <= score.value <= 1
