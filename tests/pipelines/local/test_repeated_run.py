import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.files import edit_json
from helpers.trained_folder import make_trained_folder
from kfp_osft.pipelines import cli
from kfp_osft.pipelines.command.config_file import read_config
from kfp_osft.pipelines.local.repeated_run import repeated_run
from kfp_osft.shared.files.manifests import file_digest
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.export_model.export import export_model


@pytest.fixture
def base_model(tmp_path: Path, tiny_model: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "base")


@pytest.fixture
def rows(tmp_path: Path, chat_rows: Path) -> Path:
    return Path(shutil.copyfile(chat_rows, tmp_path / "rows.jsonl"))


@pytest.fixture
def model(tmp_path: Path, base_model: Path, rows: Path) -> Path:
    """The folder of an exported model."""
    folder = make_trained_folder(tmp_path / "pvc" / "checkpoints" / ("f" * 12), base_model)
    edit_json(folder / "osft_run.json", lambda run: run["about"].update(dataset=str(rows)))
    edit_json(
        folder / "_internal_data_processing" / "manifest.json",
        lambda manifest: manifest["made_from"].update(dataset=[file_digest(rows)]),
    )
    artifact = str(tmp_path / "artifact")
    export_model(str(folder), str(tmp_path / "pvc"), SimpleNamespace(path=artifact, uri=artifact, metadata={}))
    return tmp_path / "pvc" / "final_model"


def _parameters(base_model: Path) -> dict:
    return {
        "training_base_model": str(base_model),
        "training_effective_batch_size": 8,
        "training_max_seq_len": 256,
        "training_learning_rate": 1e-3,
        "training_num_epochs": 2,
        "training_unfreeze_rank_ratio": 0.25,
    }


@pytest.mark.parametrize(
    "name", ["", "final_model", "final_model/osft_run.json", "models/ffffffffffff", "models/ffffffffffff/osft_run.json"]
)
def test_a_model_tells_the_run_that_made_it(model: Path, base_model: Path, rows: Path, capsys, name: str):
    run = repeated_run(model.parent / name, None, None, {})

    assert run == (str(rows), "train", _parameters(base_model), "", "validation")
    assert "Warning" not in capsys.readouterr().out


def test_what_is_given_beside_it_takes_the_place_of_what_it_says(model: Path, base_model: Path):
    run = repeated_run(model, "org/other", "test", {"training_num_epochs": 5, "training_seed": 1})

    parameters = {**_parameters(base_model), "training_num_epochs": 5, "training_seed": 1}
    assert run == ("org/other", "test", parameters, "", "validation")


def test_the_command_runs_it_again(model: Path, base_model: Path, rows: Path, tmp_path: Path, monkeypatch):
    calls = []

    def run_locally(*arguments):
        calls.append(arguments)
        raise TrainingError("stopped")

    monkeypatch.setattr("kfp_osft.pipelines.local.run.run_locally", run_locally)

    cli.main(["run", "--from", str(model / "osft_run.json"), "--output-dir", str(tmp_path / "out"), "--seed", "3"])

    parameters = {**_parameters(base_model), "training_seed": 3}
    assert calls == [(tmp_path / "out", str(rows), "train", parameters, False, "", "validation", None)]


def test_the_run_becomes_a_config_file_that_is_the_same_run(model: Path, base_model: Path, rows: Path, tmp_path: Path):
    config = tmp_path / "config.yaml"
    out = str(tmp_path / "out")

    code = cli.main(["run", "--from", str(model), "--epochs", "5", "--output-dir", out, "--write-config", str(config)])

    assert code == 0
    settings, _ = read_config(config)
    parameters = {**_parameters(base_model), "training_num_epochs": 5}
    assert settings == {"dataset_uri": str(rows), "output_dir": out, **parameters}


def test_rows_that_have_changed_are_not_taken_for_the_runs(model: Path, rows: Path, capsys):
    with rows.open("a") as file:
        file.write(rows.read_text().splitlines()[0] + "\n")

    with pytest.raises(
        InputError, match=r"the run's rows, rows\.jsonl, are not what they were any more; give --dataset"
    ):
        repeated_run(model, None, None, {})
    assert repeated_run(model, str(rows), None, {}).dataset == str(rows)
    assert f"Warning: the rows in {rows} are not those of the run: this will be another training" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "chat_template.jinja").write_text("{# another #}"),
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"shorter"),
    ],
)
def test_a_base_model_that_has_changed_is_not_taken_for_the_runs(model: Path, base_model: Path, capsys, change):
    change(base_model)

    with pytest.raises(InputError, match=f"the run's base model {base_model} is not what it was"):
        repeated_run(model, None, None, {})
    repeated_run(model, None, None, {"training_base_model": str(base_model)})
    assert f"of the base model {base_model} is not what the run trained" in capsys.readouterr().out


def test_weights_of_the_same_size_with_other_numbers_are_another_base_model(model: Path, base_model: Path):
    weights = base_model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(InputError, match=r"is not what it was \(model.safetensors\)"):
        repeated_run(model, None, None, {})


@pytest.mark.parametrize(
    ("base", "pinned"),
    [
        ({"name": "org/model", "id": "org/model", "revision": "0" * 40}, f"org/model@{'0' * 40}"),
        ({"name": "oci://host:5000/org/model:1", "oci": "sha256:0"}, "oci://host:5000/org/model@sha256:0"),
        ({"name": "oci://host/org/model@sha256:0", "oci": "sha256:0"}, "oci://host/org/model@sha256:0"),
    ],
)
def test_a_base_model_from_elsewhere_is_pinned_to_what_was_trained(model: Path, base: dict, pinned: str):
    edit_json(model / "osft_run.json", lambda run: run.update(base_model=base))

    assert repeated_run(model, None, None, {}).training["training_base_model"] == pinned


def test_a_model_that_was_moved_away_names_all_that_cannot_be_had(model: Path, tmp_path: Path):
    moved = shutil.move(model.resolve(), tmp_path / "moved")

    with pytest.raises(InputError) as error:
        repeated_run(Path(moved), None, None, {})

    assert str(error.value) == (
        f"--from={moved}/osft_run.json: the run's base model, the folder base, is not on this computer; give "
        "--base-model; the run's rows, rows.jsonl, are not on this computer; give --dataset"
    )


def test_what_is_published_names_no_folder_of_this_computer(model: Path, tmp_path: Path):
    for file in ("osft_run.json", "README.md"):
        assert str(tmp_path) not in (model / file).read_text()


def test_other_libraries_than_then_are_told(model: Path, capsys):
    repeated_run(model, None, None, {})

    said = capsys.readouterr().out
    assert "(then 2.9.1)" in said and "training-hub" not in said


def test_a_dataset_that_is_gone_wants_another(model: Path, rows: Path):
    rows.unlink()

    with pytest.raises(InputError, match=r"the run's rows, rows\.jsonl, are not on this computer; give --dataset"):
        repeated_run(model, None, None, {})
    assert repeated_run(model, "other.jsonl", None, {}).dataset == "other.jsonl"


@pytest.fixture
def held_out(model: Path, rows: Path, tmp_path: Path) -> Path:
    """Rows that the run held out, as its files say."""
    file = tmp_path / "held-out.jsonl"
    file.write_text(rows.read_text())
    record = tmp_path / "pvc" / "checkpoints" / ("f" * 12) / "osft_run.json"
    edit_json(record, lambda run: run["about"].update(validation_dataset=str(file)))
    told = {"name": file.name, "digests": [file_digest(file)]}
    edit_json(model / "osft_run.json", lambda run: run.update(validation=told))
    return file


def test_the_rows_that_were_held_out_are_held_out_again(model: Path, held_out: Path, capsys):
    assert repeated_run(model, None, None, {})[3:] == (str(held_out), "validation")
    assert repeated_run(model, None, None, {}, "org/other", "test")[3:] == ("org/other", "test")
    assert "Warning" not in capsys.readouterr().out


def test_held_out_rows_that_are_gone_want_others_or_come_from_where_they_came(model: Path, held_out: Path):
    held_out.unlink()

    with pytest.raises(
        InputError, match=r"held-out rows, held-out\.jsonl, are not on this computer; give --validation-"
    ):
        repeated_run(model, None, None, {})
    edit_json(model / "osft_run.json", lambda run: run["validation"].update(uri="hf://org/rows", split="test"))
    assert repeated_run(model, None, None, {})[3:] == ("hf://org/rows", "test")


def test_held_out_rows_that_have_changed_are_not_taken_for_the_runs(model: Path, held_out: Path, capsys):
    held_out.write_text(held_out.read_text().splitlines()[0] + "\n")

    with pytest.raises(InputError, match="are not what they were any more; give --validation-uri"):
        repeated_run(model, None, None, {})
    assert repeated_run(model, None, None, {}, str(held_out)).validation_uri == str(held_out)
    assert f"Warning: the rows in {held_out} are not those of the run" in capsys.readouterr().out


@pytest.mark.parametrize("uri", [f"hf://org/rows@{'0' * 40}/english", "s3://bucket/rows.jsonl"])
def test_a_dataset_that_is_not_here_is_fetched_from_where_it_came(model: Path, rows: Path, uri: str):
    rows.unlink()
    edit_json(model / "osft_run.json", lambda run: run["dataset"].update(uri=uri, split="test"))

    run = repeated_run(model, None, None, {})

    assert (run.dataset, run.dataset_split) == (uri, "test")


def test_an_address_that_had_a_secret_wants_another(model: Path, rows: Path):
    rows.unlink()
    edit_json(model / "osft_run.json", lambda run: run["dataset"].update(uri="https://host.example/rows?signature=***"))

    with pytest.raises(
        InputError,
        match="the run's rows, .*, had something secret in their address, which is not recorded; give --dataset",
    ):
        repeated_run(model, None, None, {})


def test_a_run_on_a_cluster_is_repeated_from_where_its_rows_came(
    tmp_path: Path, base_model: Path, chat_rows: Path, monkeypatch: pytest.MonkeyPatch
):
    workspace = tmp_path / "kfp-workspace"
    monkeypatch.setattr("kfp_osft.shared.files.run_workspace.MOUNT_PATH", workspace)
    fetched = workspace / "datasets" / "s3-bucket-rows"
    fetched.mkdir(parents=True)
    shutil.copy(chat_rows, fetched / "rows.jsonl")
    (fetched / ".manifest.json").write_text(json.dumps({"made_from": {}, "source": {"uri": "s3://bucket/rows.jsonl"}}))
    folder = make_trained_folder(workspace / "checkpoints" / "x", base_model)
    about = {"dataset": str(fetched / "rows.jsonl"), "base_model": "oci://registry.example/tiny:1"}
    edit_json(folder / "osft_run.json", lambda run: run["about"].update(about))
    artifact = tmp_path / "artifact"
    export_model(str(folder), str(workspace), SimpleNamespace(path=str(artifact), uri=str(artifact), metadata={}))
    shutil.rmtree(workspace)

    run = repeated_run(artifact, None, None, {})

    assert run.dataset == "s3://bucket/rows.jsonl"
    assert run.training["training_base_model"] == "oci://registry.example/tiny:1"


def test_a_base_model_that_is_gone_wants_another(model: Path, base_model: Path):
    shutil.rmtree(base_model)

    with pytest.raises(
        InputError, match="the run's base model, the folder base, is not on this computer; give --base-mod"
    ):
        repeated_run(model, None, None, {})
    repeated_run(model, None, None, {"training_base_model": "org/model"})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is not a JSON file"),
        ("[]", "does not describe a run"),
        ("{}", "does not describe a run"),
        ('{"osft": {}, "about": {}}', "does not describe a run"),
        (
            '{"parameters": {"training_seed": 1}, "format": 2, "dataset": {"uri": 1}, "base_model": {"name": "x"}}',
            "is not what export_model writes: dataset.uri is a number, not a string",
        ),
        ('{"format": 1, "parameters": {}, "dataset": {}, "base_model": {"name": "x"}}', "does not describe a run"),
        (
            '{"format": 9, "parameters": {"training_seed": 1}, "dataset": {}, "base_model": {"name": "x"}}',
            "has the format 9; this version of kfp-osft reads 2",
        ),
        (
            '{"format": 2, "parameters": {"training_x": 1}, "dataset": {}, "base_model": {"name": "x"}}',
            "training_x: not a training parameter",
        ),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_name(tmp_path: Path, content: str | None, problem: str):
    file = tmp_path / "osft_run.json"
    if content is not None:
        file.write_text(content)

    with pytest.raises(InputError) as error:
        repeated_run(file, None, None, {})

    assert str(error.value).startswith(f"--from={file}") and problem in str(error.value)
