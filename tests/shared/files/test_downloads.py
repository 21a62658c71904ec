import multiprocessing
import os
import time
from pathlib import Path

import pytest

from helpers.question_rows import files_in, put
from kfp_osft.shared.files import downloads
from kfp_osft.shared.files.downloads import (
    MANIFEST,
    check_room,
    partial_download,
)
from kfp_osft.shared.files.manifests import read_manifest
from kfp_osft.shared.reporting.errors import InputError


class Interrupted(Exception):
    pass


def leave_a_part(folder: Path, written: bytes, marked: int) -> Path:
    """A download that stopped: returns the folder it is in."""
    with pytest.raises(Interrupted), partial_download(folder, "a test") as partial:
        put(partial.folder / "below" / "rows.jsonl", written)
        partial.mark("below/rows.jsonl", marked)
        raise Interrupted
    return partial.folder


def test_what_was_marked_is_there_for_the_next_and_goes_with_the_last(tmp_path: Path):
    folder = tmp_path / "datasets" / "rows"
    part = leave_a_part(folder, b"0123456789", 7)
    assert part.is_dir() and not folder.exists()

    with partial_download(folder, "a test") as partial:
        assert partial.trusted_bytes("below/rows.jsonl") == 7 and partial.trusted_bytes("other") == 0
        partial.publish(folder, {"made": "of"}, {"uri": "s3://bucket/rows"})

    assert not part.exists()
    assert files_in(folder) == {folder / "below" / "rows.jsonl", folder / MANIFEST}
    assert read_manifest(folder / MANIFEST, {"made": "of"})


def test_what_another_process_has_published_meanwhile_stays(tmp_path: Path):
    folder = tmp_path / "rows"
    for content in (b"theirs", b"mine"):
        with partial_download(folder, "a test") as partial:
            put(partial.folder / "rows.jsonl", content)
            partial.publish(folder, "the same", {})

    assert (folder / "rows.jsonl").read_bytes() == b"theirs" and files_in(tmp_path) == files_in(folder)


@pytest.mark.parametrize("damage", ["shorter", "gone", "no mark", "mark cut"])
def test_what_does_not_agree_with_its_mark_is_not_trusted(tmp_path: Path, damage: str):
    part = leave_a_part(tmp_path / "rows", b"0123456789", 7)
    if damage == "shorter":
        put(part / "below" / "rows.jsonl", b"012345")
    elif damage == "gone":
        (part / "below" / "rows.jsonl").unlink()
    elif damage == "no mark":
        (part / ".marks").unlink()
    else:
        marks = part / ".marks"
        marks.write_bytes(marks.read_bytes()[:-5])

    with partial_download(tmp_path / "rows", "a test") as partial:
        assert partial.trusted_bytes("below/rows.jsonl") == 0
        partial.mark("below/rows.jsonl", 0) if damage == "shorter" else put(partial.folder / "x", b"12")
        if damage == "mark cut":
            # The line after a cut one is a line of its own.
            partial.mark("x", 2)
            assert downloads.PartialDownload(partial.folder).trusted_bytes("x") == 2


def _download_the_same(folder: Path, answer) -> None:
    with partial_download(folder, "a test") as partial:
        answer.put((str(partial.folder), partial.trusted_bytes("below/rows.jsonl")))


def test_two_processes_do_not_write_to_the_same_part(tmp_path: Path):
    folder = tmp_path / "rows"
    part = leave_a_part(folder, b"0123456789", 7)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()

    with partial_download(folder, "a test") as mine:
        process = context.Process(target=_download_the_same, args=(folder, answer))
        process.start()
        theirs, trusted = answer.get()
        process.join()
        assert mine.folder == part and Path(theirs) != part and trusted == 0
        assert not Path(theirs).exists() and part.exists()


def test_a_part_that_nobody_came_back_for_goes_after_a_day(tmp_path: Path):
    old, young = (leave_a_part(tmp_path / name, b"0123", 4) for name in ("old", "young"))
    a_day_ago = time.time() - 25 * 60 * 60
    for path in [old, *old.rglob("*")]:
        os.utime(path, (a_day_ago, a_day_ago))

    with partial_download(tmp_path / "other", "a test"):
        assert not old.exists() and young.exists()


def test_what_does_not_fit_is_refused(tmp_path: Path):
    check_room(tmp_path, 1, "it")
    with pytest.raises(InputError, match=rf"^it: needs 4\.0 TiB, but pvc_path={tmp_path} has [\d.]+ .iB free$"):
        check_room(tmp_path, 4 << 40, "it")
