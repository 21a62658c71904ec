import json
from pathlib import Path

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training import run_file
from kfp_osft.shared.training.run_file import data_made_from, dataset_source, library_versions, read_run
from kfp_osft.stages.launch_trainjob import train_result


def test_a_folder_without_the_file_has_no_run(tmp_path: Path):
    assert read_run(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"osft": {}}', '{"osft": [], "about": {}}'])
def test_a_file_that_is_something_else_is_refused_by_name(tmp_path: Path, content: str):
    (tmp_path / "osft_run.json").write_text(content)

    with pytest.raises(InputError, match=f"{tmp_path}/osft_run.json is not what launch_trainjob writes"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("run", "wrong"),
    [
        ({"about": {"samples": "32"}}, "about.samples is a string, not a number"),
        ({"about": {"dataset": 3}}, "about.dataset is a number, not a string"),
        ({"osft": {"unfreeze_rank_ratio": True}}, "osft.unfreeze_rank_ratio is a boolean, not a number"),
        ({"osft": {"model_path": None}}, "osft.model_path is null, not a string"),
        ({"osft": []}, "osft is an empty list, not an object"),
        ({"seconds": {}}, "seconds is an object, not a number"),
        ({"base_model": {"weights": [1]}}, "base_model.weights is a list, not an object"),
        ({"dataset": "rows.jsonl"}, "dataset is a string, not an object"),
        ({"lineage": {}}, "lineage is an object, not a list"),
        ({"lineage": [{}, {"dataset": []}]}, "lineage[1].dataset is an empty list, not an object"),
    ],
)
def test_a_field_of_another_kind_is_told(tmp_path: Path, run: dict, wrong: str):
    (tmp_path / "osft_run.json").write_text(json.dumps({"osft": {}, "about": {}, **run}))

    with pytest.raises(InputError) as error:
        read_run(tmp_path)

    assert str(error.value) == f"{tmp_path}/osft_run.json is not what launch_trainjob writes: {wrong}"


@pytest.mark.parametrize(
    ("content", "versions"),
    [
        ('{"torch": "2.9.1", "python": "3.12.1"}', {"torch": "2.9.1", "python": "3.12.1"}),
        ("[]", {}),
        ("{", {}),
        (None, {}),
    ],
)
def test_versions_are_those_that_the_training_script_wrote(tmp_path: Path, content: str | None, versions: dict):
    assert run_file._VERSIONS_FILE == train_result.VERSIONS_FILE
    if content is not None:
        (tmp_path / train_result.VERSIONS_FILE).write_text(content)

    assert library_versions(tmp_path) == versions


@pytest.mark.parametrize(
    ("content", "made_from"),
    [
        ('{"made_from": {"dataset": ["0"]}}', {"dataset": ["0"]}),
        ('{"made_from": {"base_model": "0"}}', {}),
        ('{"made_from": "0123"}', {}),
        ("[]", {}),
        (None, {}),
    ],
)
def test_what_the_data_was_made_from_is_in_its_manifest(tmp_path: Path, content: str | None, made_from: dict):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)

    assert data_made_from({"data_output_dir": str(tmp_path)}) == made_from
    assert data_made_from({}) == {}


SOURCE = {"uri": "s3://bucket/rows", "endpoint": "https://store.example"}


@pytest.mark.parametrize("rows", ["rows.jsonl", ".", "rows/train", "train"])
def test_rows_that_were_fetched_tell_where_they_came_from(tmp_path: Path, rows: str):
    (tmp_path / ".manifest.json").write_text(json.dumps({"made_from": {}, "source": SOURCE}))

    assert dataset_source(str(tmp_path / rows)) == SOURCE


def test_the_rows_of_a_split_tell_which_one_it_is(tmp_path: Path):
    (tmp_path / ".manifest.json").write_text(json.dumps({"made_from": {}, "source": SOURCE}))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')

    assert dataset_source(str(tmp_path / "test")) == {**SOURCE, "split": "test"}


@pytest.mark.parametrize("path", ["", "/nowhere/rows.jsonl"])
def test_rows_that_were_not_fetched_have_no_source(path: str):
    assert dataset_source(path) == {}


def test_a_manifest_of_something_else_is_no_source(tmp_path: Path):
    (tmp_path / ".manifest.json").write_text('{"source": "somewhere"}')

    assert dataset_source(str(tmp_path / "rows.jsonl")) == {}
