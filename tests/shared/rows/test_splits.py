import itertools
import random
from pathlib import Path

import pytest
from datasets.data_files import FILES_TO_IGNORE, get_data_patterns, resolve_pattern

from helpers.question_rows import jsonl, put
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.files import dataset_files, named_splits, read_rows
from kfp_osft.shared.rows.splits import DESCRIPTIONS

_WORDS = [
    "train",
    "training",
    "validation",
    "valid",
    "dev",
    "val",
    "test",
    "testing",
    "eval",
    "evaluation",
    "rows",
    "latest",
]
_FRAMES = ["{}", "{}-0", "{}_1", "my {}", "a.{}", "{}2", "x{}", "{}ing"]


def splits_of_the_hub(folder: Path) -> dict[str, set[str]]:
    """What load_dataset would read."""
    return {
        str(split): {
            str(Path(file).relative_to(folder)) for pattern in patterns for file in _resolved(pattern, str(folder))
        }
        for split, patterns in get_data_patterns(str(folder)).items()
    }


def _resolved(pattern: str, folder: str) -> list[str]:
    try:
        return resolve_pattern(pattern, folder)
    except FileNotFoundError:
        return []


def ours(folder: Path) -> dict[str, set[str]]:
    splits = {split: {str(file.relative_to(folder)) for file in files} for split, files in named_splits(folder).items()}
    return splits or {"train": {str(file.relative_to(folder)) for file in dataset_files(folder)}}


@pytest.mark.parametrize(
    "names",
    [
        ["train.jsonl", "test.jsonl"],
        ["train-0.jsonl", "train-1.jsonl", "dev.jsonl", "rows.jsonl"],
        ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/random-00000-of-00001.jsonl"],
        ["data/train-00000-of-00001.jsonl", "test.jsonl"],
        ["train/a.jsonl", "train/b.jsonl", "test/a.jsonl"],
        ["a/train/b/c.jsonl", "a/evaluation/c.jsonl", "other.jsonl"],
        ["train/test.jsonl", "validation.jsonl"],
        ["one.jsonl", "two.jsonl"],
        ["contest.jsonl", "latest.jsonl", "value.jsonl"],
        ["my_test.jsonl"],
        ["test-train.jsonl", "train.jsonl"],
    ],
    ids=" ".join,
)
def test_the_splits_of_a_folder_are_those_that_the_hub_sees(tmp_path: Path, names: list[str]):
    for name in names:
        put(tmp_path / name, jsonl("a"))

    assert ours(tmp_path) == splits_of_the_hub(tmp_path)


def test_the_splits_of_random_folders_are_those_that_the_hub_sees(tmp_path: Path):
    numbers = random.Random(3)
    parts = [frame.format(word) for frame, word in itertools.product(_FRAMES, _WORDS)]
    for index in range(40):
        folder = tmp_path / str(index)
        for _ in range(numbers.randint(1, 4)):
            depth = numbers.choice([1, 1, 2, 3])
            put(folder.joinpath(*numbers.choices(parts, k=depth)).with_suffix(".jsonl"), jsonl("a"))
        assert ours(folder) == splits_of_the_hub(folder), sorted(folder.rglob("*.jsonl"))


def test_capital_letters_hide_no_held_out_rows(tmp_path: Path):
    for name in ("Train.jsonl", "TEST.jsonl"):
        put(tmp_path / name, jsonl("a"))

    assert ours(tmp_path) == {"train": {"Train.jsonl"}, "test": {"TEST.jsonl"}}


@pytest.mark.parametrize("others", [["test.jsonl"], ["rows.jsonl"], ["test.jsonl", "dev.jsonl"]])
def test_rows_of_several_splits_are_not_read_as_one(tmp_path: Path, others: list[str]):
    for name in ("train.jsonl", *others):
        put(tmp_path / name, jsonl("a"))

    with pytest.raises(InputError, match="by the names of its files.*choose with dataset_split"):
        list(read_rows(tmp_path))


def test_rows_of_one_split_are_read(tmp_path: Path):
    for name in ("train-0.jsonl", "train-1.jsonl"):
        put(tmp_path / name, jsonl("a"))

    assert [row.place for row in read_rows(tmp_path)] == ["train-0.jsonl, row 1", "train-1.jsonl, row 1"]


def test_what_the_hub_takes_for_a_description_holds_no_rows(tmp_path: Path):
    rows = put(tmp_path / "rows.jsonl", jsonl("a"))
    for name in DESCRIPTIONS:
        put(tmp_path / "below" / name, b'{"features": {}}')

    assert dataset_files(tmp_path) == [rows]
    assert {name for name in FILES_TO_IGNORE if name.endswith(".json")} <= DESCRIPTIONS
