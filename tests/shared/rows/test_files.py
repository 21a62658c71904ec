import json
from pathlib import Path

import datasets
import pytest

from helpers.errors import error_of
from helpers.question_rows import jsonl, put
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.files import (
    count_rows,
    dataset_files,
    passed_over,
    read_rows,
    rows_known_cheaply,
    saved_splits,
)
from kfp_osft.shared.rows.formats import ALLOWED_FILES


def saved(path: Path, *questions: str, shards: int = 1) -> Path:
    """A folder as `datasets` writes it."""
    rows = datasets.Dataset.from_list([{"question": question} for question in questions])
    rows.save_to_disk(path, num_shards=shards)
    return path


def questions(path: Path) -> list[str]:
    return [values["question"] for _, values in read_rows(path)]


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path):
    put(tmp_path / "part-2.csv", b"question\nd\n")
    put(tmp_path / "part-1.jsonl", b'{"question": "b"}\n{"question": "c"}\n')
    put(tmp_path / "below" / "part-0.json", b'[{"question": "a"}]')

    assert [place for place, _ in read_rows(tmp_path)] == [
        "below/part-0.json, row 1",
        "part-1.jsonl, row 1",
        "part-1.jsonl, row 2",
        "part-2.csv, row 1",
    ]
    assert questions(tmp_path) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.jsonl",
        ".cache/rows.jsonl",
        "below/.git/rows.json",
        "README.md",
        "LICENSE",
        ".manifest.json",
        "rows.txt",
        "rows.tar.gz",
    ],
)
def test_hidden_files_and_what_is_no_data_are_passed_over(tmp_path: Path, name: str):
    rows = put(tmp_path / "rows.jsonl", jsonl("a"))
    other = put(tmp_path / name, b"no rows")

    assert dataset_files(tmp_path) == [rows]
    # The hidden ones are not worth a word.
    assert passed_over(tmp_path) == ([] if any(part.startswith(".") for part in Path(name).parts) else [other])


def test_a_folder_that_is_itself_below_a_hidden_one_is_read(tmp_path: Path):
    rows = put(tmp_path / ".cache" / "set" / "rows.jsonl", jsonl("a"))

    assert dataset_files(rows.parent) == [rows]


def test_a_link_to_a_file_is_followed_as_in_the_hub_cache(tmp_path: Path):
    blob = put(tmp_path / "blobs" / "0123", jsonl("a", "b"))
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "rows.jsonl").symlink_to(blob)

    assert count_rows(tmp_path / "snapshot") == 2


def test_a_link_without_its_target_is_told(tmp_path: Path):
    put(tmp_path / "a.jsonl", jsonl("a"))
    link = tmp_path / "b.jsonl"
    link.symlink_to(tmp_path / "gone")

    assert error_of(count_rows, tmp_path) == (
        f"dataset file {link} is missing: a link without its target, or a part of a saved dataset"
    )


def test_a_saved_dataset_is_read_without_its_descriptions_and_caches(tmp_path: Path):
    path = saved(tmp_path / "rows", "a", "b", "c", shards=2)
    put(path / "cache-0123456789abcdef.arrow", (path / "data-00000-of-00002.arrow").read_bytes())

    assert [file.name for file in dataset_files(path)] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert questions(path) == ["a", "b", "c"]


def test_a_saved_dataset_without_one_of_its_parts_is_told(tmp_path: Path):
    path = saved(tmp_path / "rows", "a", "b", shards=2)
    (path / "data-00001-of-00002.arrow").unlink()

    assert error_of(count_rows, path) == (
        f"dataset file {path}/data-00001-of-00002.arrow is missing: a link without "
        "its target, or a part of a saved dataset"
    )


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_saved_dataset_whose_description_is_broken_is_told(tmp_path: Path, content: str):
    path = saved(tmp_path / "rows", "a")
    (path / "state.json").write_text(content)

    assert error_of(count_rows, path) == (
        f"dataset file {path}/state.json cannot be read as what `datasets` writes: no '_data_files'"
    )


@pytest.mark.parametrize("name", ["../secret.jsonl", "/etc/passwd", "a/b.arrow", "..", "", 5, None])
def test_a_saved_datasets_description_cannot_lead_outside_its_folder(tmp_path: Path, name: object):
    put(tmp_path / "secret.jsonl", jsonl("secret"))
    path = saved(tmp_path / "rows", "a")
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))

    assert error_of(count_rows, path) == (
        f"dataset file {path}/state.json names {name!r}; allowed: the names of what lies beside it, as `datasets` "
        "writes them"
    )


@pytest.mark.parametrize("splits", [["../other"], ["train", "/etc"], "train", {"train": 1}])
def test_the_splits_of_a_saved_dataset_are_names_of_folders_in_it(tmp_path: Path, splits: object):
    put(tmp_path / "dataset_dict.json", json.dumps({"splits": splits}).encode())
    with pytest.raises(InputError, match=r"^dataset file .*dataset_dict.json (names|cannot be read)"):
        saved_splits(tmp_path)


def test_saved_splits_are_not_mixed(tmp_path: Path):
    for split in ("train", "test"):
        saved(tmp_path / split, split)
    put(tmp_path / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}).encode())

    assert error_of(count_rows, tmp_path) == (
        f"dataset folder {tmp_path} holds several splits; give the folder of one: train, test"
    )
    assert questions(tmp_path / "test") == ["test"]
    # What is asked before a split is chosen: is it a dataset at all?
    assert [file.parent.name for file in dataset_files(tmp_path)] == ["test", "train"]


def test_a_cut_file_in_a_folder_is_named(tmp_path: Path):
    put(tmp_path / "a.jsonl", jsonl("a"))
    put(tmp_path / "b.parquet", b"PAR1")

    assert error_of(count_rows, tmp_path).startswith("b.parquet: is not Parquet: ")


def test_a_missing_dataset_is_told(tmp_path: Path):
    assert error_of(count_rows, tmp_path / "no") == f"dataset {tmp_path / 'no'} does not exist"


def test_a_folder_without_data_is_told(tmp_path: Path):
    put(tmp_path / "README.md", b"x")
    put(tmp_path / ".rows.jsonl", jsonl("a"))

    assert error_of(count_rows, tmp_path) == f"dataset folder {tmp_path} holds no data file; allowed: {ALLOWED_FILES}"


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["a.jsonl"], 3),
        (["a.jsonl", "b.ndjson", "c.parquet"], 11),
        (["a.jsonl", "d.json"], None),
        (["e.parquet"], None),
    ],
)
def test_rows_are_counted_where_that_is_cheap(tmp_path: Path, names: list[str], rows: int | None):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.jsonl").write_text("{}\n" * 3)
    (tmp_path / "b.ndjson").write_text("{}\n" * 3)
    parquet.write_table(pyarrow.table({"x": range(5)}), tmp_path / "c.parquet")
    (tmp_path / "d.json").write_text("[{}]")
    (tmp_path / "e.parquet").write_text("PAR1")

    assert rows_known_cheaply([tmp_path / name for name in names]) == rows
