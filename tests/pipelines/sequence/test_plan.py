"""tasks.yaml: what it may say, and which ratio each task gets."""

import pytest
import yaml

from kfp_osft.pipelines.command import sequence
from kfp_osft.pipelines.sequence.plan import plan_of, ratio_of, read_plan
from kfp_osft.shared.reporting.errors import InputError

TASK = {"name": "first", "dataset": "org/rows"}


def plan(**content):
    return plan_of({"base_model": "org/model", "tasks": [TASK, {**TASK, "name": "second"}], **content})


@pytest.mark.parametrize(
    ("schedule", "ratios"),
    [("constant", [0.4, 0.4, 0.4, 0.4]), ("falling", [0.4, 0.2, 0.1, 0.05]), ("growing", [0.4, 0.3, 0.2, 0.1])],
)
def test_a_schedule_gives_each_position_its_ratio(schedule, ratios):
    assert [ratio_of(schedule, 0.4, at, 0.5, 4) for at in range(4)] == pytest.approx(ratios)


def test_growing_from_1_keeps_what_earlier_tasks_were_allotted():
    assert [ratio_of("growing", 1.0, at, planned_tasks=4) for at in range(4)] == [1, 0.75, 0.5, 0.25]


def test_a_task_added_at_the_end_changes_no_earlier_ratio():
    tasks = [{**TASK, "name": f"task-{number}"} for number in range(4)]
    for schedule in ("constant", "falling", "growing"):
        content = {"base_model": "m", "schedule": schedule, "planned_tasks": 5, "tasks": tasks}
        three = plan_of({**content, "tasks": tasks[:3]}).tasks
        assert plan_of(content).tasks[:3] == three


def test_a_tasks_own_ratio_and_parameters_go_before_those_of_all():
    tasks = [TASK, {**TASK, "name": "second", "unfreeze_rank_ratio": 0.1, "training": {"training_num_epochs": 2}}]
    training = {"training_num_epochs": 1, "training_learning_rate": 1e-4}
    first, second = plan(tasks=tasks, unfreeze_rank_ratio=0.3, training=training).tasks
    assert (first.unfreeze_rank_ratio, second.unfreeze_rank_ratio) == (0.3, 0.1)
    assert first.training["training_num_epochs"] == 1 and second.training["training_num_epochs"] == 2
    assert second.training["training_learning_rate"] == 1e-4


def test_a_task_without_held_out_rows_of_its_own_holds_out_a_tenth():
    assert plan().tasks[0].training["training_validation_split"] == 0.1
    own = plan(tasks=[{**TASK, "validation": "org/rows"}]).tasks[0]
    assert own.validation == "org/rows" and "training_validation_split" not in own.training


def test_files_beside_tasks_yaml_are_found_from_anywhere_and_numbers_may_lack_the_point(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    file = tmp_path / "tasks.yaml"
    file.write_text(
        "base_model: org/model\ntraining: {training_learning_rate: 1e-5}\ntasks:\n"
        "- {name: first, dataset: rows.jsonl}\n- {name: second, dataset: org/rows}\n"
    )
    monkeypatch.chdir("/")
    first, second = read_plan(file).tasks
    assert (first.dataset, second.dataset) == (str(tmp_path / "rows.jsonl"), "org/rows")
    assert first.training["training_learning_rate"] == 1e-5


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"tasks": []}, "expected a mapping with base_model and a list of tasks"),
        ({"base_model": None}, "base_model is missing"),
        ({"base_model": ""}, "base_model is missing"),
        ({"schedule": ["falling"]}, "schedule=['falling'] is not allowed"),
        ({"factor": float("nan")}, "factor=nan is not a number"),
        ({"planned_tasks": float("inf")}, "planned_tasks=inf is not a number"),
        ({"planned_tasks": 2.5}, "planned_tasks=2.5 is not a whole number"),
        ({"planned_tasks": True}, "planned_tasks=True is not a number"),
        ({"training": [1]}, "training is not a mapping of parameters"),
        ({"training": {1: 2}}, "task 1: 1 is not a training parameter"),
        ({"tasks": [{**TASK, "training": 3}]}, "task 1: training is not a mapping of parameters"),
        ({"tasks": [{**TASK, "dataset": 3}]}, "task 1: dataset=3 is not a text"),
        ({"tasks": [{**TASK, "dataset": ""}]}, "task 1: dataset is missing"),
        ({"tasks": [{**TASK, "dataset_split": 3}]}, "task 1: dataset_split=3 is not a text"),
        ({"tasks": [{**TASK, "validation": ["a"]}]}, "task 1: validation=['a'] is not a text"),
        ({"tasks": [{**TASK, "unfreeze_rank_ratio": None}]}, "task 1: training_unfreeze_rank_ratio=None is not"),
        ({"tasks": [{**TASK, "unfreeze_rank_ratio": [1]}]}, "task 1: training_unfreeze_rank_ratio=[1] is not"),
        ({"schedule": "rising"}, "schedule='rising' is not allowed; allowed: constant, falling, growing"),
        ({"schedule": "growing"}, "planned_tasks is missing: growing needs the number of all tasks"),
        ({"planned_tasks": 1}, "planned_tasks=1 is less than the 2 tasks"),
        ({"factor": 2}, "factor=2 is not allowed"),
        ({"unfreeze_rank_ratio": "much"}, "unfreeze_rank_ratio='much' is not a number"),
        ({"unfreeze_rank_ratio": 25}, "task 1: training_unfreeze_rank_ratio=25 is not allowed"),
        ({"tasks": [TASK, TASK]}, "the name first is given to two tasks"),
        ({"training": {"export_uri": "s3://b/m"}}, "export_uri=s3://b/m is given to two tasks: each model"),
        ({"tasks": ["first"]}, "task 1 is not a mapping"),
        ({"tasks": [{"name": "A B", "dataset": "x"}]}, "task 1: name='A B' is not allowed"),
        ({"tasks": [{"name": "first"}]}, "task 1: dataset is missing"),
        ({"tasks": [{**TASK, "rows": 3}]}, "task 1: rows is not known; allowed: name, dataset"),
        ({"training": {"training_num_epoch": 1}}, "task 1: training_num_epoch is not a training parameter"),
        ({"training": {"training_base_model": "x"}}, "task 1: training_base_model does not belong into training"),
    ],
)
def test_what_is_wrong_is_named(content, problem):
    with pytest.raises(InputError) as caught:
        plan(**content)
    assert problem in str(caught.value)


def test_the_file_is_named_in_each_line(tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump({"base_model": "m", "schedule": "x", "factor": 0, "tasks": [TASK]}))
    with pytest.raises(InputError) as caught:
        read_plan(file)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [str(file)] * 2
    for text, problem in (
        ("tasks: [", "is not valid YAML"),
        ("tasks: 1\ntasks: 2", "tasks stands twice"),
        ("- 1", "expected a mapping"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=problem):
            read_plan(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "none.yaml")


def test_the_example_in_the_help_is_a_plan():
    example = sequence._EPILOG.partition(":\n\n")[2].partition("\n\n")[0]
    billing, returns = plan_of(yaml.safe_load(example)).tasks
    assert (billing.unfreeze_rank_ratio, returns.unfreeze_rank_ratio) == (0.25, 0.125)
    assert billing.training == {"training_num_epochs": 2, "training_validation_split": 0.1}
    assert returns.validation == "returns.jsonl"
