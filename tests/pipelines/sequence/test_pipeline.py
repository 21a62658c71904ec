"""osft_sequence on a cluster: one sub-pipeline per task, in a row."""

import pytest

from helpers.compiled_pipeline import documents_of
from kfp_osft.pipelines import cli, osft_sequence
from kfp_osft.pipelines.osft.workflow_size import MOST, estimate
from kfp_osft.shared.reporting.errors import InputError

TASKS = [{"name": "first", "dataset": "org/one"}, {"name": "second", "dataset": "s3://bucket/two.jsonl"}]


@pytest.fixture(scope="module")
def compiled():
    return documents_of(
        osft_sequence(TASKS, "org/model", schedule="falling", evaluation={"gate": True, "max_forgetting": 0.1})
    )


def constant(task, name):
    return task["inputs"]["parameters"][name]["runtimeValue"]["constant"]


def test_each_task_has_its_seven_stages_a_folder_of_its_own_and_its_ratio(compiled):
    assert len(compiled.tasks) == 14
    first, second = (compiled.tasks[name] for name in ("preprocess", "preprocess-2"))
    assert [constant(each, "training_unfreeze_rank_ratio") for each in (first, second)] == [0.25, 0.125]
    folder = "{{$.inputs.parameters['pipelinechannel--pvc_path']}}"
    assert constant(second, "pvc_path") == f"{folder}/second"
    assert second["taskInfo"]["name"] == "second: preprocess"


def test_a_task_begins_with_the_model_of_the_one_before_once_that_is_evaluated(compiled):
    first, second = (compiled.tasks[name] for name in ("preprocess", "preprocess-2"))
    assert first["inputs"]["parameters"]["training_base_model"] == {"componentInputParameter": "base_model"}
    assert constant(second, "training_base_model").endswith("/first/final_model")
    assert "evaluate-model" in second["dependentTasks"]
    # Bad rows of a later task are found before the first training.
    assert "dependentTasks" not in compiled.tasks["resolve-dataset-2"]


def test_the_rows_of_earlier_tasks_are_measured_where_preprocess_held_them_out(compiled):
    first, second = (compiled.tasks[name] for name in ("evaluate-model", "evaluate-model-2"))
    assert "earlier_tasks" not in first["inputs"]["parameters"]
    data = constant(compiled.tasks["preprocess"], "training_data_output_dir")
    assert constant(second, "earlier_tasks") == f"first={data}/validation.jsonl"
    assert constant(second, "gate") is True and constant(second, "max_forgetting") == 0.1


@pytest.mark.parametrize("count", [2, 6])
def test_it_fits_into_what_argo_can_store(count):
    tasks = [{"name": f"task-{number}", "dataset": "org/rows"} for number in range(count)]
    sequence = documents_of(osft_sequence(tasks, "org/model"))
    assert estimate([sequence.specification, sequence.platform]).share < MOST


def test_what_is_not_allowed_is_reported_when_it_is_built():
    with pytest.raises(InputError, match="task 2: dataset is missing"):
        osft_sequence([TASKS[0], {"name": "second"}], "org/model")


def test_compile_writes_it_from_tasks_yaml(tmp_path, capsys):
    (tmp_path / "tasks.yaml").write_text("base_model: org/model\ntasks: [{name: first, dataset: org/rows}]\n")
    assert cli.main(["compile", "--output-dir", str(tmp_path), "--sequence", str(tmp_path / "tasks.yaml")]) == 0
    assert str(tmp_path / "osft_sequence.yaml") in capsys.readouterr().out.splitlines()
    text = (tmp_path / "osft_sequence.yaml").read_text()
    assert "name: osft-sequence" in text and "comp-evaluate-model:" in text
    assert "comp-evaluate-model:" not in (tmp_path / "osft_pipeline.yaml").read_text()
