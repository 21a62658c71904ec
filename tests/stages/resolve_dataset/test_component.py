import shutil
from pathlib import Path

from kfp import dsl

from fakes.http import File, HttpFileServer
from kfp_osft.stages import resolve_dataset
from pytest_kfp_local import KfpLocal


def test_a_file_is_used_where_it_lies_and_its_rows_are_counted(kfp_local: KfpLocal, chat_rows: Path):
    result = kfp_local.run(resolve_dataset, pvc_path=str(kfp_local.workspace), dataset_uri=str(chat_rows))

    assert result.outputs == {"dataset_path": str(chat_rows), "num_rows": 32, "validation_path": ""}


def test_an_upstream_artifact_is_brought_into_the_workspace(kfp_local: KfpLocal, chat_rows: Path):
    result = kfp_local.run(resolve_dataset, pvc_path=str(kfp_local.workspace), dataset=chat_rows)

    copy = Path(result.outputs["dataset_path"])
    assert copy.is_relative_to(kfp_local.workspace / "datasets")
    assert copy.read_bytes() == chat_rows.read_bytes()


def test_an_artifact_without_data_is_found_by_its_metadata(kfp_local: KfpLocal, tmp_path: Path, chat_rows: Path):
    shutil.copy(chat_rows, kfp_local.workspace / "rows.jsonl")
    artifact = dsl.Dataset(
        uri=str(tmp_path / "nothing"), metadata={"pvc_path": str(kfp_local.workspace / "rows.jsonl")}
    )

    result = kfp_local.run(resolve_dataset, pvc_path=str(kfp_local.workspace), dataset=artifact)

    assert result.outputs["dataset_path"] == str(kfp_local.workspace / "rows.jsonl")


def test_a_missing_dataset_fails_with_its_place(errors_of, tmp_path: Path):
    missing = tmp_path / "missing.jsonl"

    assert errors_of(resolve_dataset, pvc_path=str(tmp_path / "pvc"), dataset_uri=str(missing)) == [
        f"dataset_uri={missing}: there is nothing at {missing}"
    ]


def test_a_file_behind_a_url_is_brought_into_the_workspace_and_its_secrets_are_not_shown(
    kfp_local: KfpLocal, chat_rows: Path
):
    with HttpFileServer({"/rows.jsonl": File(chat_rows.read_bytes())}) as site:
        result = kfp_local.run(
            resolve_dataset, pvc_path=str(kfp_local.workspace), dataset_uri=f"{site.url}/rows.jsonl?signature=hunter2"
        )

    assert Path(result.outputs["dataset_path"]).read_bytes() == chat_rows.read_bytes()
    assert f"Downloading {site.url}/rows.jsonl?signature=***" in result.log and "hunter2" not in result.log


def test_a_url_that_is_refused_fails_without_its_secrets(errors_of, tmp_path: Path):
    with HttpFileServer({"/rows.jsonl": File(b"", status=403)}) as site:
        errors = errors_of(
            resolve_dataset, pvc_path=str(tmp_path / "pvc"), dataset_uri=f"{site.url}/rows.jsonl?signature=hunter2"
        )

    assert errors == [
        f"dataset_uri={site.url}/rows.jsonl?signature=***: the server refuses it (403 Forbidden); "
        "a signed link may have expired; put files that need a login on S3 or the PVC"
    ]
