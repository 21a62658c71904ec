"""A base model that an earlier task of the pipeline made."""

import shutil
from pathlib import Path

import pytest
from kfp import dsl

from conftest import TINY_TRAINING
from helpers.artifacts import artifact
from helpers.errors import error_of
from helpers.files import contents
from kfp_osft.pipelines import train_model
from kfp_osft.stages import preprocess
from kfp_osft.stages.preprocess.artifact_model import base_of_artifact
from pytest_kfp_local import KfpLocal


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "pvc"
    folder.mkdir()
    return folder


def test_it_is_copied_into_the_workspace_once(workspace: Path, tiny_model: Path, tmp_path: Path):
    model = tmp_path / "artifact"
    shutil.copytree(tiny_model, model)
    (model / "modeling.py").write_text("print()")

    folder = Path(base_of_artifact(artifact(model, model_name="bot-osft"), workspace, False))

    assert folder.is_relative_to(workspace / "base_models") and folder.name == "bot-osft"
    assert contents(folder).keys() == contents(tiny_model).keys() | {".manifest.json"}
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert base_of_artifact(artifact(model, model_name="bot-osft"), workspace, False) == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_model_that_this_workspace_made_is_used_where_it_lies(workspace: Path, tiny_model: Path, tmp_path: Path):
    for name, text in {"one": "{}", "other": '{"format": 2}'}.items():
        shutil.copytree(tiny_model, workspace / "models" / name)
        (workspace / "models" / name / "osft_run.json").write_text(text)
    shutil.copytree(workspace / "models" / "other", tmp_path / "artifact")

    assert base_of_artifact(artifact(tmp_path / "artifact"), workspace, False) == str(workspace / "models" / "other")
    assert not (workspace / "base_models").exists()


def test_a_model_that_its_metadata_names_is_used_where_it_lies_if_it_is_still_the_same(
    workspace: Path, tiny_model: Path, tmp_path: Path
):
    shutil.copytree(tiny_model, tmp_path / "first" / "models" / "x")
    shutil.copytree(tiny_model, tmp_path / "artifact")
    (tmp_path / "first" / "final_model").symlink_to("models/x")
    model = artifact(tmp_path / "artifact", pvc_model_dir=str(tmp_path / "first" / "final_model"))

    assert base_of_artifact(model, workspace, False) == str(tmp_path / "first" / "models" / "x")

    (tmp_path / "first" / "models" / "x" / "config.json").write_text("{}")
    assert base_of_artifact(model, workspace, False).startswith(str(workspace / "base_models"))


@pytest.mark.parametrize(
    ("metadata", "place"),
    [
        ({"pvc_model_dir": "/pvc/final_model", "artifact_path": "/x"}, "/pvc/final_model"),
        ({"artifact_path": "/pvc/model"}, "/pvc/model"),
    ],
)
def test_without_data_its_metadata_says_where_it_is(
    workspace: Path, tmp_path: Path, metadata: dict[str, str], place: str
):
    assert base_of_artifact(artifact(tmp_path / "none", **metadata), workspace, False) == place


def test_with_neither_it_is_refused(workspace: Path, tmp_path: Path):
    assert error_of(base_of_artifact, artifact(tmp_path), workspace, False).startswith(
        f"training_base_model: the model artifact has no model at {tmp_path} (no config.json)"
    )


@pytest.mark.slow
def test_preprocess_takes_it_from_a_task(workspace: Path, tiny_model: Path, chat_rows: Path, kfp_local: KfpLocal):
    @dsl.pipeline
    def from_an_importer() -> str:
        model = dsl.importer(artifact_uri=str(tiny_model), artifact_class=dsl.Model)
        task = preprocess(
            dataset_path=str(chat_rows), pvc_path=str(workspace), base_model=model.output, **TINY_TRAINING
        )
        return task.outputs["training_config"]

    config = kfp_local.run(from_an_importer).outputs["Output"]

    assert f'"model_path": "{workspace}/base_models/' in config


@pytest.mark.slow
def test_a_training_goes_on_from_the_model_of_an_earlier_one_in_the_same_pipeline(
    workspace: Path, tiny_model: Path, chat_rows: Path, kfp_local: KfpLocal
):
    training = {**TINY_TRAINING, "training_num_epochs": 1, "dataset_uri": str(chat_rows)}
    first_folder, second_folder = str(workspace / "first"), str(workspace / "second")

    @dsl.pipeline
    def two_trainings() -> dsl.Model:
        first = train_model(pvc_path=first_folder, training_base_model=str(tiny_model), **training)
        second = train_model(pvc_path=second_folder, training_base_model=first.outputs["output_model"], **training)
        return second.outputs["output_model"]

    model = kfp_local.run(two_trainings).outputs["Output"]

    assert model.metadata["model_name"] == f"{tiny_model.name}-osft-2"
    assert not (workspace / "second" / "base_models").exists(), "it is used where the first training left it"
