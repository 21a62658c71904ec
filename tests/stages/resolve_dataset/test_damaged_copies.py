"""Copies in the workspace that are not what they were: brought again, whatever happened to them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.http import File, HttpFileServer
from helpers.question_rows import files_in, jsonl, put, questions
from kfp_osft.stages.resolve_dataset.source import ResolvedDataset, resolve

TEN = [f"question {number}" for number in range(10)]

DAMAGES = {
    "cut to two rows": lambda file: file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2])),
    "cut within a row": lambda file: file.write_bytes(file.read_bytes()[:-5]),
    "empty": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "another of the same size": lambda file: file.write_bytes(file.read_bytes().replace(b"question 3", b"question 4")),
    "a row more": lambda file: file.open("ab").write(jsonl("more")),
    "the manifest is gone": lambda file: (file.parent / ".manifest.json").unlink(),
    "the manifest is cut": lambda file: os.truncate(file.parent / ".manifest.json", 20),
}


@pytest.fixture(params=["http", "artifact"])
def bring(
    request, tmp_path: Path, pvc: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], ResolvedDataset]]:
    if request.param == "http":
        with HttpFileServer() as site:
            site.files["/rows.jsonl"] = File(jsonl(*TEN))
            yield lambda: resolve(f"{site.url}/rows.jsonl", "train", str(pvc), None)
    else:
        rows = put(tmp_path / "elsewhere" / "rows.jsonl", jsonl(*TEN))
        artifact = SimpleNamespace(path=str(rows), uri=str(rows), metadata={})
        yield lambda: resolve("", "train", str(pvc), artifact)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_copy_is_brought_again(bring: Callable, pvc: Path, damage: Callable):
    first = bring()
    before = {file: file.read_bytes() for file in files_in(pvc)}
    damage(Path(first.dataset_path))

    assert bring() == first
    assert questions(first.dataset_path) == TEN
    assert {file: file.read_bytes() for file in files_in(pvc)} == before


def test_a_whole_copy_is_used_again(bring: Callable):
    first = bring()
    written = Path(first.dataset_path).stat().st_mtime_ns

    assert bring() == first and Path(first.dataset_path).stat().st_mtime_ns == written
