import random
import unicodedata
from pathlib import PurePosixPath

import pytest

from kfp_osft.stages.resolve_dataset.object_names import file_names

E_ACUTE = ("\N{LATIN SMALL LETTER E WITH ACUTE}.jsonl", "e\N{COMBINING ACUTE ACCENT}.jsonl")


def test_a_key_is_its_files_path_where_it_can_be():
    keys = ["train.jsonl", "deep/er/test-00000-of-00001.parquet", "a b/ü.csv"]

    assert file_names(keys) == {key: key for key in keys}


@pytest.mark.parametrize(
    "keys",
    [
        ["x//a.jsonl", "x/a.jsonl"],
        ["x/./a.jsonl", "./x/a.jsonl", "x/a.jsonl", "/x/a.jsonl", "x///a.jsonl"],
        ["Train.jsonl", "train.jsonl"],
        ["A/a.jsonl", "a/A.jsonl"],
        [*E_ACUTE],
        ["\N{LATIN SMALL LETTER SHARP S}.jsonl", "ss.jsonl"],
        ["a", "a/b.jsonl", "A/c.jsonl"],
        ["a.jsonl/b.jsonl", "a.jsonl"],
        ["folder./a.jsonl", "folder/a.jsonl"],
    ],
)
def test_no_two_keys_are_one_file_on_any_file_system(keys: list[str]):
    paths = [PurePosixPath(path) for path in file_names(keys).values()]

    folded = [unicodedata.normalize("NFC", str(path)).casefold() for path in paths]
    assert len({*folded}) == len(keys)
    parents = {unicodedata.normalize("NFC", str(parent)).casefold() for path in paths for parent in path.parents}
    assert not parents & {*folded}
    # The extension says what is in it, and the name of which split it is.
    assert [path.suffix for path in paths] == [PurePosixPath(key).suffix for key in sorted(keys)]
    assert [path.name[0] for path in paths] == [key.rpartition("/")[2][0] for key in sorted(keys)]


def test_the_order_of_the_keys_does_not_matter():
    keys = ["x//a.jsonl", "x/a.jsonl", "X/A.jsonl", "x/a.jsonl/b.jsonl", "t.jsonl"]
    shuffled = [*keys]
    random.Random(1).shuffle(shuffled)

    assert file_names(shuffled) == file_names(keys)


def test_a_name_that_no_file_can_have_is_shortened():
    keys = [f"{'ü' * 300}{number}/train{'x' * 300}.jsonl.gz" for number in range(2)]

    paths = file_names(keys)

    assert len({*paths.values()}) == 2
    for path in paths.values():
        assert all(len(part.encode()) < 255 for part in path.split("/"))
        assert path.endswith(".jsonl.gz") and "/train" in path
