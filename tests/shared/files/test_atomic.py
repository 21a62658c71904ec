import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_osft.shared.files import atomic
from kfp_osft.shared.files.atomic import replacing_file, replacing_folder, writable_folder, write_json
from kfp_osft.shared.files.manifests import file_digest, fingerprint, read_manifest, write_manifest
from kfp_osft.shared.reporting.errors import InputError

MADE_FROM = {"rows": ["a.jsonl", "0123"], "max_seq_len": 128}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("before", [None, "old"])
def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path, before: str | None):
    path = tmp_path / "result"
    if before:
        path.write_text(before)

    with replacing_file(path) as unfinished:
        unfinished.write_text("new")
        assert unfinished.parent == tmp_path
        assert path.exists() == bool(before) and (not before or path.read_text() == before)

    assert path.read_text() == "new"
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_file_stays_as_it_was_when_the_block_fails(tmp_path: Path, before: str | None, error: type):
    path = tmp_path / "result"
    if before:
        path.write_text(before)

    with pytest.raises(error), replacing_file(path) as unfinished:
        unfinished.write_text("half")
        raise error

    assert names(tmp_path) == (["result"] if before else [])
    assert not before or path.read_text() == before


def test_a_file_that_was_never_written_replaces_nothing(tmp_path: Path):
    path = tmp_path / "result"
    path.write_text("old")

    with pytest.raises(FileNotFoundError), replacing_file(path):
        pass

    assert path.read_text() == "old" and names(tmp_path) == ["result"]


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_takes_its_place_with_nothing_of_the_old_one(tmp_path: Path, before: bool):
    path = tmp_path / "results" / "one"
    if before:
        path.mkdir(parents=True)
        (path / "old").write_text("old")

    with replacing_folder(path) as unfinished:
        (unfinished / "below").mkdir()
        (unfinished / "below" / "new").write_text("new")
        assert names(path) == (["old"] if before else [])

    assert names(tmp_path) == ["results", "results/one", "results/one/below", "results/one/below/new"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [False, True])
def test_a_folder_stays_as_it_was_when_the_block_fails(tmp_path: Path, before: bool, error: type):
    path = tmp_path / "one"
    if before:
        path.mkdir()
        (path / "old").write_text("old")

    with pytest.raises(error), replacing_folder(path) as unfinished:
        (unfinished / "new").write_text("half")
        raise error

    assert names(tmp_path) == (["one", "one/old"] if before else [])


def test_a_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path: Path):
    path = tmp_path / "one"
    path.mkdir()
    (path / "old").write_text("old")

    with pytest.raises(FileNotFoundError), replacing_folder(path) as unfinished:
        unfinished.rmdir()

    assert names(tmp_path) == ["one", "one/old"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_with_and_without_a_file_system_that_swaps(
    tmp_path: Path, monkeypatch, can_exchange: bool
):
    path = tmp_path / "one"
    path.mkdir()
    (path / "old").write_text("old")
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)

    with replacing_folder(path) as unfinished:
        (unfinished / "new").write_text("new")

    assert names(tmp_path) == ["one", "one/new"]


def test_two_folders_are_swapped_in_one_step_on_this_file_system(tmp_path: Path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()

    assert atomic._exchange(tmp_path / "one", tmp_path / "other")
    assert names(tmp_path) == ["one", "one/other", "other", "other/one"]
    assert not atomic._exchange(tmp_path / "one", tmp_path / "nothing")


def test_a_folder_that_a_killed_process_had_moved_away_is_put_back(tmp_path: Path):
    (tmp_path / ".one.0123.previous").mkdir()
    (tmp_path / ".one.0123.previous" / "old").write_text("old")

    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "one"):
        raise RuntimeError("before the new one was whole")

    assert names(tmp_path) == ["one", "one/old"]


WRITERS = """
import sys
from pathlib import Path
from kfp_osft.shared.files import atomic
path, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "folder in two steps":
    atomic._exchange = lambda one, other: False
for number in range(300):
    if kind == "file":
        atomic.write_json(path, {"number": number})
    else:
        with atomic.replacing_folder(path) as unfinished:
            (unfinished / "number").write_text(str(number))
"""


@pytest.mark.parametrize("kind", ["file", "folder", "folder in two steps"])
def test_writers_of_one_place_do_not_disturb_each_other(tmp_path: Path, kind: str):
    command = [sys.executable, "-c", WRITERS, str(tmp_path / "result"), kind]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]

    assert [writer.communicate()[1] for writer in writers] == [""] * 3
    assert names(tmp_path) == (["result"] if kind == "file" else ["result", "result/number"])


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("leads_to", ["a folder", "a file", "nothing"])
def test_a_link_is_replaced_by_the_folder_and_what_it_leads_to_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leads_to: str, can_exchange: bool
):
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    if leads_to == "a folder":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "theirs").touch()
    elif leads_to == "a file":
        (tmp_path / "elsewhere").touch()
    there = names(tmp_path)
    (tmp_path / "one").symlink_to("elsewhere")

    with replacing_folder(tmp_path / "one") as unfinished:
        (unfinished / "new").touch()

    assert names(tmp_path) == [*there, "one", "one/new"]
    assert not (tmp_path / "one").is_symlink()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_process_that_is_killed_leaves_the_old_result(tmp_path: Path, kind: str):
    path = tmp_path / "result"
    if kind == "file":
        path.write_text("old")
    else:
        path.mkdir()
        (path / "old").write_text("old")
    child = f"""
import os, signal, sys
from pathlib import Path
from kfp_osft.shared.files.atomic import replacing_{kind}
with replacing_{kind}(Path(sys.argv[1])) as unfinished:
    (unfinished / "new" if unfinished.is_dir() else unfinished).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""

    process = subprocess.run([sys.executable, "-c", child, str(path)])

    assert process.returncode == -signal.SIGKILL
    assert (path.read_text() if kind == "file" else names(path)) == ("old" if kind == "file" else ["old"])


def test_a_manifest_is_read_when_it_was_made_from_the_same(tmp_path: Path):
    path = tmp_path / "manifest.json"
    write_manifest(path, MADE_FROM, (), rows=3)

    # The order of keys does not count.
    manifest = read_manifest(path, dict(reversed(MADE_FROM.items())))

    made = {"folder": None, "files": {}}
    assert manifest == {"fingerprint": fingerprint(MADE_FROM), "made_from": MADE_FROM, "made": made, "rows": 3}
    assert names(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize(
    "other",
    [
        {**MADE_FROM, "max_seq_len": 129},
        {**MADE_FROM, "max_seq_len": "128"},
        {**MADE_FROM, "max_seq_len": None},
        {**MADE_FROM, "more": 1},
        {"rows": MADE_FROM["rows"]},
        {**MADE_FROM, "rows": MADE_FROM["rows"][::-1]},
        None,
    ],
)
def test_a_manifest_of_something_else_is_none(tmp_path: Path, other: object):
    write_manifest(tmp_path / "manifest.json", MADE_FROM, ())

    assert read_manifest(tmp_path / "manifest.json", other) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b'"x"', b"\xff\xfe", None])
def test_a_manifest_that_is_none_is_not_trusted(tmp_path: Path, content: bytes | None):
    path = tmp_path / "manifest.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    assert read_manifest(path, MADE_FROM) is None
    assert read_manifest(tmp_path / "missing.json", MADE_FROM) is None


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})

    with pytest.raises(TypeError):
        write_json(path, {"a": {1, 2}})

    assert json.loads(path.read_text()) == {"a": 1} and names(tmp_path) == ["file.json"]


def test_the_digest_is_that_of_the_content_alone(tmp_path: Path):
    for name, content in [("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"x" * 2_999_999 + b"y")]:
        (tmp_path / name).write_bytes(content)
    os.utime(tmp_path / "b", (1, 1))

    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    assert writable_folder("pvc_path", "a/b") == tmp_path / "a" / "b"
    assert names(tmp_path) == ["a", "a/b"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "pvc_path is empty; give the folder of the workspace PVC, or a local folder"),
        (" ", "pvc_path is empty; give the folder of the workspace PVC, or a local folder"),
        ("{file}", "pvc_path={file} cannot be written: File exists"),
        ("{file}/below", "pvc_path={file}/below cannot be written: Not a directory"),
        # Nothing can be made there, not even by root.
        ("/proc/pvc", "pvc_path=/proc/pvc cannot be written: No such file or directory"),
        ("/proc/self", "pvc_path=/proc/self cannot be written: No such file or directory"),
    ],
)
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, folder: str, message: str):
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(InputError) as error:
        writable_folder("pvc_path", folder.format(file=file))

    assert str(error.value) == message.format(file=file)


@pytest.mark.parametrize(
    ("replacing", "make"),
    [
        (replacing_file, lambda path: path.write_text("half")),
        (replacing_folder, lambda path: path.mkdir()),
    ],
)
def test_what_a_killed_process_left_a_day_ago_goes_and_what_may_be_at_work_stays(tmp_path, replacing, make):
    path = tmp_path / "data[1].jsonl"
    old, young, others = (tmp_path / f".{name}.unfinished" for name in ("data[1].jsonl.a", "data[1].jsonl.b", "x.a"))
    for leftover in (old, young, others):
        make(leftover)
    for leftover in (old, others):
        os.utime(leftover, (0, 0))

    with replacing(path) as unfinished:
        if not unfinished.exists():
            unfinished.touch()

    assert not old.exists() and young.exists() and others.exists() and path.exists()


@pytest.mark.parametrize("folder", ["a\0b", "/" + "a" * 5000, "/proc/x"])
def test_a_folder_that_cannot_be_is_one_short_sentence(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        writable_folder("pvc_path", folder)
    said = str(error.value)
    assert said.startswith("pvc_path=") and "cannot be written: " in said and "\0" not in said and len(said) < 600


@pytest.mark.parametrize("replacing", [replacing_file, replacing_folder])
def test_a_full_disk_is_told_with_the_file_that_was_to_be(tmp_path, replacing):
    path = tmp_path / "data.jsonl"
    with pytest.raises(OSError, match="No space left") as error, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
