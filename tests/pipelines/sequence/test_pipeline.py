"""osft_sequence on a cluster: one sub-pipeline per task, in a row."""

import pytest
import yaml

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


def test_it_has_what_was_set_where_tasks_yaml_says_nothing_else(tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text(
        "base_model: org/model\ntraining: {training_num_epochs: 2}\ntasks: [{name: first, dataset: org/rows}]\n"
    )
    values = ("num_epochs=5", "batch-size=16", "max_forgetting=0.2", "check_matrices=4", "pvc_path=/work")
    values += ("unfreeze_rank_ratio=0.5", "training_base_model=org/other", "validation_split=0.3")
    options = [f"--set={value}" for value in values]
    command = ["compile", "--output-dir", str(tmp_path), "--sequence", str(file), "--name", "ours", *options]
    assert cli.main(command) == 0

    text = (tmp_path / "osft_sequence.yaml").read_text()
    assert "\n  name: ours-sequence\n" in text
    root = next(yaml.safe_load_all(text))["root"]
    defaults = {name: each["defaultValue"] for name, each in root["inputDefinitions"]["parameters"].items()}
    assert defaults == {"base_model": "org/model", "pvc_path": "/work"}
    tasks = root["dag"]["tasks"]
    names = ("num_epochs", "effective_batch_size", "unfreeze_rank_ratio", "validation_split")
    trained = [constant(tasks["preprocess"], f"training_{name}") for name in names]
    assert trained == [2, 16, 0.5, 0.3]
    assert constant(tasks["evaluate-model"], "max_forgetting") == 0.2
    assert constant(tasks["collect-metrics"], "check_matrices") == 4


def test_bad_tasks_are_reported_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "tasks.yaml").write_text("base_model: org/model\n")
    out = tmp_path / "out"
    assert cli.main(["compile", "--output-dir", str(out), "--sequence", str(tmp_path / "tasks.yaml")]) == 2
    assert "expected a mapping with base_model and a list of tasks" in capsys.readouterr().err
    assert not out.exists()
