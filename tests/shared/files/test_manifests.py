import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kfp_osft.shared.files.manifests import read_manifest, sampled_digest, write_manifest


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a file is cut": lambda folder: cut(folder / "rows.jsonl"),
    "a file has grown": lambda folder: (folder / "rows.jsonl").open("a").write("{}\n"),
    "a file has other content of the same size": lambda folder: change(folder / "deep" / "more.jsonl"),
    "a file is gone": lambda folder: (folder / "deep" / "more.jsonl").unlink(),
    "a file is a folder": lambda folder: [(folder / "rows.jsonl").unlink(), (folder / "rows.jsonl").mkdir()],
    "a file leads nowhere": lambda folder: [
        (folder / "rows.jsonl").unlink(),
        (folder / "rows.jsonl").symlink_to("nothing"),
    ],
}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    (folder / "deep").mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"a": 1}\n' * 10)
    (folder / "deep" / "more.jsonl").write_text('{"b": 2}\n')
    return folder


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("inside", [True, False], ids=["manifest inside", "manifest above"])
def test_a_result_that_is_not_as_it_was_written_is_not_trusted(
    result: Path, damage: Callable, inside: bool, capsys: pytest.CaptureFixture[str]
):
    path = result / "manifest.json" if inside else result.parent / "manifest.json"
    write_manifest(path, "rows", result)
    assert read_manifest(path, "rows") is not None

    damage(result)

    assert read_manifest(path, "rows") is None
    assert capsys.readouterr().out.startswith(f"Warning: {result}/")


def test_a_folder_to_which_something_was_added_is_not_trusted_and_hidden_files_do_not_count(result: Path):
    path = result / ".manifest.json"
    write_manifest(path, "rows", result)

    (result / ".DS_Store").write_text("")
    (result / ".cache").mkdir()
    (result / ".cache" / "x.jsonl").write_text("{}")
    assert read_manifest(path, "rows")

    (result / "deep" / "added.jsonl").write_text("{}\n")
    assert read_manifest(path, "rows") is None


def test_single_files_are_trusted_whatever_lies_beside_them(result: Path):
    path = result / "manifest.json"
    write_manifest(path, "rows", [result / "rows.jsonl"])

    (result / "others.txt").write_text("")
    (result / "deep" / "more.jsonl").unlink()
    assert read_manifest(path, "rows")

    cut(result / "rows.jsonl")
    assert read_manifest(path, "rows", tell=False) is None


@pytest.mark.parametrize("made", [None, [], {}, {"files": []}, {"files": {"a": 1}}, {"files": {}}])
def test_a_manifest_that_does_not_say_what_belongs_to_it_is_not_trusted(tmp_path: Path, made: object):
    path = tmp_path / "manifest.json"
    write_manifest(path, "rows", ())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"made": made}))

    assert read_manifest(path, "rows") is None


def test_a_result_may_be_moved_with_its_manifest(result: Path):
    write_manifest(result / ".manifest.json", "rows", result)

    moved = result.rename(result.with_name("moved"))

    assert read_manifest(moved / ".manifest.json", "rows")


def test_of_a_large_file_samples_are_read(tmp_path: Path):
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.truncate(1 << 34)
    before = sampled_digest(file)
    with file.open("r+b") as opened:
        opened.seek(-1, 2)
        opened.write(b"x")

    assert sampled_digest(file) != before
