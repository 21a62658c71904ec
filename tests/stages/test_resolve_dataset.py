import shutil
from pathlib import Path

from kfp import dsl

from kfp_osft.stages import resolve_dataset


def test_a_file_is_used_where_it_lies_and_its_rows_are_counted(kfp_local: Path, tmp_path: Path, chat_rows: Path):
    task = resolve_dataset(pvc_path=str(tmp_path / "pvc"), dataset_uri=str(chat_rows))

    assert task.outputs == {"dataset_path": str(chat_rows), "num_rows": 32}


def test_an_upstream_artifact_is_brought_into_the_workspace(kfp_local: Path, tmp_path: Path, chat_rows: Path):
    pvc = tmp_path / "pvc"

    @dsl.pipeline
    def from_artifact() -> str:
        rows = dsl.importer(artifact_uri=str(chat_rows), artifact_class=dsl.Dataset)
        return resolve_dataset(pvc_path=str(pvc), dataset=rows.output).outputs["dataset_path"]

    copy = Path(from_artifact().output)
    assert copy.is_relative_to(pvc / "datasets")
    assert copy.read_bytes() == chat_rows.read_bytes()


def test_an_artifact_without_data_is_found_by_its_metadata(kfp_local: Path, tmp_path: Path, chat_rows: Path):
    pvc = tmp_path / "pvc"
    pvc.mkdir()
    shutil.copy(chat_rows, pvc / "rows.jsonl")

    @dsl.pipeline
    def from_metadata() -> str:
        rows = dsl.importer(artifact_uri=str(tmp_path / "nothing"), artifact_class=dsl.Dataset,
                            metadata={"pvc_path": str(pvc / "rows.jsonl")})
        return resolve_dataset(pvc_path=str(pvc), dataset=rows.output).outputs["dataset_path"]

    assert from_metadata().output == str(pvc / "rows.jsonl")


def test_a_missing_dataset_fails_with_its_place(failing_stage, tmp_path: Path):
    missing = tmp_path / "missing.jsonl"

    assert failing_stage(resolve_dataset, pvc_path=str(tmp_path / "pvc"), dataset_uri=str(missing)) == [
        f"dataset_uri={missing}: there is nothing at {missing}"]
