"""export_model with a destination."""

from pathlib import Path

import pytest

from fakes.s3 import S3Server
from helpers.artifacts import artifact
from helpers.errors import error_of
from helpers.files import contents
from helpers.trained_folder import make_trained_folder
from kfp_osft.stages.export_model.export import export_model


@pytest.fixture
def checkpoint_dir(tmp_path: Path, tiny_model: Path) -> Path:
    return make_trained_folder(tmp_path / "pvc" / "checkpoints" / "x", tiny_model)


def test_the_exported_model_is_pushed_and_the_artifact_names_the_place(
    store: S3Server, checkpoint_dir: Path, tmp_path: Path
):
    output_model = artifact(tmp_path / "artifact")

    export_model(str(checkpoint_dir), str(tmp_path / "pvc"), output_model, " s3://models/exported/tiny/ ")

    assert output_model.metadata["export_uri"] == "s3://models/exported/tiny"
    assert not [value for value in output_model.metadata.values() if isinstance(value, (dict, list))]
    listed = store.client.list_objects_v2(Bucket="models", Prefix="exported/tiny/")["Contents"]
    assert {entry["Key"].removeprefix("exported/tiny/") for entry in listed} == contents(
        tmp_path / "pvc" / "final_model"
    ).keys()


def test_a_push_that_fails_leaves_the_model_where_it_is_and_says_so(
    store: S3Server, checkpoint_dir: Path, tmp_path: Path
):
    output_model = artifact(tmp_path / "artifact")

    message = error_of(export_model, str(checkpoint_dir), str(tmp_path / "pvc"), output_model, "s3://gone/tiny")

    model = tmp_path / "pvc" / "models" / "x"
    assert message.startswith("export_uri=s3://gone/tiny: ")
    assert message.endswith(
        f"has no bucket gone. The model itself is complete, in {model}; a retry goes on with the push"
    )
    assert (model / "model.safetensors").is_file()
