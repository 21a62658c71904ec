from pathlib import Path

import pytest

from helpers.preprocess_rows import ANSWER, QUESTION
from kfp_osft.shared.parameters.values import LR_SCHEDULERS
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess import training_data
from kfp_osft.stages.preprocess.base_model import check_lr_scheduler
from kfp_osft.stages.preprocess.training_data import SCHEDULERS_OF_ARGUMENTS, preprocess_dataset


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"base_model": "{tmp}"}, "training_base_model={tmp}: not a model folder, it has no config.json"),
        ({"base_model": "/no/model"}, "training_base_model=/no/model: no such folder"),
        ({"target_patterns": "q_proj,porj"}, "training_target_patterns: porj matches no weight matrix of "),
        (
            {"lr_scheduler": "linear", "lr_scheduler_kwargs": "num_cycles=2"},
            "training_lr_scheduler_kwargs={'num_cycles': 2}: the scheduler linear says: ",
        ),
        (
            {"lr_scheduler_kwargs": "num_cycles=x"},
            "training_lr_scheduler_kwargs={'num_cycles': 'x'}: the scheduler cosine says: ",
        ),
        ({"lr_scheduler_kwargs": "num_cycles"}, "training_lr_scheduler_kwargs: an item has no '='"),
        ({"unfreeze_rank_ratio": 1.5}, "training_unfreeze_rank_ratio=1.5 is not allowed"),
        ({"unfreeze_rank_ratio": -0.1}, "training_unfreeze_rank_ratio=-0.1 is not allowed"),
        ({"effective_batch_size": 0}, "training_effective_batch_size=0 is not allowed"),
        ({"max_tokens_per_gpu": 0}, "training_max_tokens_per_gpu=0 is not allowed"),
        ({"max_seq_len": 20}, "training_max_seq_len=20 is not allowed"),
        ({"learning_rate": 0.0}, "training_learning_rate=0.0 is not allowed"),
        ({"learning_rate": float("nan")}, "training_learning_rate=nan is not allowed"),
        ({"envs": "A"}, "training_envs: an item has no '='"),
        ({"metadata_labels": "=x"}, "training_metadata_labels: an item has no key before '='"),
        ({"lerning_rate": 1.0}, "training_lerning_rate is not a training parameter"),
    ],
)
def test_a_bad_parameter_is_reported_before_the_rows_are_read(
    error_of, chat_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict, message: str
):
    monkeypatch.setattr(training_data, "write_samples", None)
    parameters = {
        name: value.replace("{tmp}", str(tmp_path)) if isinstance(value, str) else value
        for name, value in parameters.items()
    }

    error = error_of(chat_rows, **parameters)

    assert error.startswith(message.replace("{tmp}", str(tmp_path))) and len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "api_key"])
def test_a_secret_in_the_environment_of_the_training_is_rejected_and_not_shown(error_of, chat_rows: Path, name: str):
    error = error_of(chat_rows, envs=f"A=1,{name}=hush")

    assert error.startswith(f"training_envs: '{name}' looks like a secret") and "hush" not in error


@pytest.mark.parametrize("parameter", ["pvc_path", "training_data_output_dir"])
@pytest.mark.parametrize("place", ["{file}/below", "/proc/pvc", "/proc/self/pvc"])
def test_a_folder_that_cannot_be_written_is_reported(
    tmp_path: Path, tiny_model: Path, chat_rows: Path, place: str, parameter: str
):
    (tmp_path / "file").touch()
    folder = place.format(file=tmp_path / "file")
    training = {"training_base_model": str(tiny_model)}
    if parameter != "pvc_path":
        training[parameter] = folder

    with pytest.raises(InputError) as error:
        preprocess_dataset(str(chat_rows), folder if parameter == "pvc_path" else str(tmp_path / "pvc"), training)

    assert str(error.value).startswith(f"{parameter}={folder} cannot be written: ")


@pytest.mark.parametrize("name", ["data.jsonl", "validation.jsonl", "report.json"])
def test_an_output_folder_where_the_dataset_would_be_overwritten_is_rejected(run, dataset, name: str):
    rows = dataset([QUESTION, ANSWER], name=name)
    before = rows.read_bytes()

    with pytest.raises(InputError) as error:
        run(rows, data_output_dir=str(rows.parent))

    assert str(error.value) == (
        f"training_data_output_dir={rows.parent}: its data.jsonl, validation.jsonl, report.json or manifest.json is "
        "the dataset itself, which would be overwritten; give another folder"
    )
    assert rows.read_bytes() == before


@pytest.mark.parametrize("name", ["data.jsonl", "report.json", "manifest.json"])
@pytest.mark.parametrize("content", ["mine", '{"fingerprint": "of another program"}'])
def test_an_output_folder_with_other_files_is_rejected_and_they_stay(
    run, chat_rows: Path, tmp_path: Path, name: str, content: str
):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text(content)

    with pytest.raises(InputError) as error:
        run(chat_rows, data_output_dir=str(folder))

    assert str(error.value) == (
        f"training_data_output_dir={folder}: holds {name}, which preprocess did not write and would overwrite; give "
        "another folder, or remove them"
    )
    assert {file.name: file.read_text() for file in folder.iterdir()} == {name: content}


def test_a_model_folder_is_not_an_output_folder(run, chat_rows: Path, model: Path):
    before = sorted(model.iterdir())
    with pytest.raises(InputError, match=f"^training_data_output_dir={model}: is a model folder"):
        run(chat_rows, data_output_dir=str(model))
    assert sorted(model.iterdir()) == before


def test_a_rejected_dataset_keeps_the_data_of_an_earlier_one(run, chat_rows: Path, dataset, tmp_path: Path):
    folder = tmp_path / "tokens"
    run(chat_rows, data_output_dir=str(folder))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    with pytest.raises(InputError):
        run(dataset([QUESTION]), data_output_dir=str(folder))

    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("below", ["", "tokens"])
def test_an_output_folder_in_the_dataset_folder_is_rejected(run, dataset, below: str):
    folder = dataset([QUESTION, ANSWER]).parent

    with pytest.raises(InputError) as error:
        run(folder, data_output_dir=str(folder / below))

    assert str(error.value) == (
        f"training_data_output_dir={folder / below}: lies in the dataset folder {folder}, so that the next "
        "run would read its data.jsonl as rows; give another folder"
    )
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["rows.jsonl"]


def test_a_file_of_rows_may_lie_beside_the_output(run, dataset):
    rows = dataset([QUESTION, ANSWER])

    assert run(rows, data_output_dir=str(rows.parent)).data_path == str(rows.parent / "data.jsonl")
    assert run(rows, data_output_dir=str(rows.parent)).num_samples == 1


def test_a_value_that_will_not_run_as_given_is_a_warning(run, chat_rows: Path, capsys: pytest.CaptureFixture[str]):
    plan = {"effective_batch_size": 1, "num_epochs": 10}
    run(chat_rows, fsdp_sharding_strategy="NO_SHARD", osft_memory_efficient_init=False, **plan)

    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 2
    assert "training_fsdp_sharding_strategy=NO_SHARD has no effect" in warnings[1]


@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_a_scheduler_is_tried_where_it_may_fail(run, chat_rows: Path, name: str):
    if name in SCHEDULERS_OF_ARGUMENTS:
        with pytest.raises(InputError, match=f"the scheduler {name} says: "):
            run(chat_rows, lr_scheduler=name)
    else:
        check_lr_scheduler({"lr_scheduler": name, "learning_rate": 1e-4, "warmup_steps": 3})
        run(chat_rows, lr_scheduler=name)
