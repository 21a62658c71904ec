import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from helpers.artifacts import artifact
from helpers.question_rows import files_in, jsonl, put, questions
from helpers.resolving import refusal
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.files import read_rows
from kfp_osft.shared.training import run_file
from kfp_osft.stages.resolve_dataset import source
from kfp_osft.stages.resolve_dataset.source import ResolvedDataset, resolve

# Paths


@pytest.mark.parametrize(
    "uri",
    [
        "{pvc}/data/rows.jsonl",
        "file://{pvc}/data/rows.jsonl",
        "pvc://data/rows.jsonl",
        "pvc:///data/rows.jsonl",
        "data/rows.jsonl",
        "~/pvc/data/rows.jsonl",
        "{pvc}/data",
        "pvc://data",
        "data",
    ],
)
def test_a_path_is_used_where_it_lies(pvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = put(pvc / "data" / "rows.jsonl", jsonl("a", "b"))

    path = rows if uri.endswith("rows.jsonl") else rows.parent
    assert resolve(uri.format(pvc=pvc), "train", str(pvc), None) == ResolvedDataset(str(path), 2)
    assert files_in(pvc) == {rows}


@pytest.mark.parametrize("uri", ["rows.jsonl", "./rows.jsonl", "../here/rows.jsonl", "rows"])
def test_a_relative_path_becomes_an_absolute_one(pvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str):
    put(tmp_path / "here" / "rows.jsonl", jsonl("a"))
    put(tmp_path / "here" / "rows" / "part.jsonl", jsonl("a"))
    monkeypatch.chdir(tmp_path / "here")

    path, rows, _ = resolve(uri, "train", str(pvc), None)

    assert Path(path).is_absolute() and Path(path).samefile(tmp_path / "here" / uri)
    assert rows == 1


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "",
            "no dataset: give dataset_uri (a path, pvc://path (below pvc_path), s3://bucket/key or a prefix, "
            "https:// or http:// of one file, org/name or hf://org/name of a Hugging Face dataset), or an upstream "
            "dataset artifact",
        ),
        ("/no/rows.jsonl", "dataset_uri=/no/rows.jsonl: there is nothing at /no/rows.jsonl"),
        (
            "pvc://../../etc/rows.jsonl",
            "dataset_uri=pvc://../../etc/rows.jsonl: leads outside pvc_path={pvc}; allowed: pvc://path below it",
        ),
        ("pvc://no/rows.jsonl", "dataset_uri=pvc://no/rows.jsonl: there is nothing at {pvc}/no/rows.jsonl"),
        ("~nobody-of-this-name/rows.jsonl", "dataset_uri=~nobody-of-this-name/rows.jsonl: there is nothing at "),
        ("no/rows.jsonl", "dataset_uri=no/rows.jsonl: there is nothing at no/rows.jsonl"),
        ("gs://bucket/rows.jsonl", "dataset_uri=gs://bucket/rows.jsonl: unknown scheme 'gs://'; allowed: a path, "),
        (
            "a/b/c/d",
            "dataset_uri=a/b/c/d: is not a Hugging Face dataset id; allowed: [hf://]org/name[@revision][/config]",
        ),
        ("hf://", "dataset_uri=hf://: is not a Hugging Face dataset id; allowed: [hf://]org/name[@revision][/config]"),
        (
            "org/na me",
            "dataset_uri=org/na me: is not a Hugging Face dataset id; allowed: [hf://]org/name[@revision][/config]",
        ),
    ],
)
def test_a_dataset_uri_that_leads_nowhere_is_told(pvc: Path, uri: str, message: str):
    assert refusal(uri, pvc).startswith(message.format(pvc=pvc))


@pytest.mark.parametrize("content", [b"", b"\n", b"{"])
def test_a_dataset_without_readable_rows_is_told(pvc: Path, content: bytes):
    rows = put(pvc / "rows.jsonl", content)

    assert rows.name in refusal(str(rows), pvc)


def test_a_workspace_that_cannot_be_written_is_told(tmp_path: Path):
    file = put(tmp_path / "file", b"")
    rows = put(tmp_path / "rows.jsonl", jsonl("a"))

    assert refusal(str(rows), file / "pvc") == f"pvc_path={file}/pvc cannot be written: Not a directory"


@pytest.mark.parametrize("uri", ["ftp://user:hunter2@host/rows.jsonl?x=hunter2", "s3a://user:hunter2@host/rows.jsonl"])
def test_a_secret_in_a_uri_of_an_unknown_scheme_is_not_shown(pvc: Path, uri: str):
    for dataset in (None, artifact(pvc)):
        message = refusal(uri, pvc, dataset)
        assert "://***@host/rows.jsonl" in message and "hunter2" not in message


def test_rows_are_counted_once_and_again_when_a_file_changes(pvc: Path, monkeypatch: pytest.MonkeyPatch):
    rows = put(pvc / "data" / "rows.jsonl", jsonl("a", "b"))
    assert resolve("pvc://data", "train", str(pvc), None).num_rows == 2
    with monkeypatch.context() as unread:
        unread.delattr(source, "count_rows")
        assert resolve("pvc://data", "train", str(pvc), None).num_rows == 2

    # As long as before: only the time tells.
    put(rows, b"{}\n" * 2 + b" " * (len(rows.read_bytes()) - 6))
    put(pvc / "data" / "more.jsonl", b"{}\n")
    assert resolve("pvc://data", "train", str(pvc), None).num_rows == 3
    put(rows, b"{" * len(rows.read_bytes()))
    assert "rows.jsonl, line 1: is not JSON" in refusal("pvc://data", pvc)


def test_files_that_are_passed_over_are_told(pvc: Path, capsys: pytest.CaptureFixture):
    for name in ("rows.jsonl", "rows.jsonl.bz2", "below/notes.txt", ".hidden"):
        put(pvc / "data" / name, jsonl("a"))

    resolve("pvc://data", "train", str(pvc), None)
    assert (
        f"Skipped in {pvc}/data, as they do not have the name of a data file: below/notes.txt, rows.jsonl.bz2\n"
        in capsys.readouterr().out
    )


def saved_splits(path: Path) -> Path:
    splits = {
        split: datasets.Dataset.from_list([{"split": split}] * rows) for split, rows in {"train": 3, "test": 1}.items()
    }
    datasets.DatasetDict(splits).save_to_disk(path)
    return path


@pytest.mark.parametrize(("split", "rows"), [("train", 3), ("test", 1)])
@pytest.mark.parametrize("kind", ["path", "artifact"])
def test_of_saved_splits_the_one_that_is_asked_for_is_taken(
    pvc: Path, tmp_path: Path, kind: str, split: str, rows: int
):
    if kind == "path":
        uri, dataset = str(saved_splits(pvc / "set")), None
    else:
        uri, dataset = "", artifact(saved_splits(tmp_path / "store" / "set"))

    path, count, _ = resolve(uri, split, str(pvc), dataset)

    assert Path(path).is_relative_to(pvc) and Path(path).name == split and count == rows
    assert [values for _, values in read_rows(Path(path))] == [{"split": split}] * rows


def test_a_saved_split_that_is_not_there_is_told(pvc: Path):
    path = saved_splits(pvc / "set")

    with pytest.raises(InputError) as caught:
        resolve(str(path), "validation", str(pvc), None)
    assert str(caught.value) == f"dataset_split=validation is not in {path}; allowed: train, test"


def test_a_split_that_says_nothing_is_told(pvc: Path, capsys: pytest.CaptureFixture):
    rows = put(pvc / "rows.jsonl", jsonl("a"))

    resolve(str(rows), "test", str(pvc), None)
    assert f"Warning: dataset_split=test is not used: {rows} has no splits, all its rows are taken\n" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("split", "files"),
    [
        ("train", ["train-0.jsonl", "train-1.jsonl"]),
        ("", ["train-0.jsonl", "train-1.jsonl"]),
        ("test", ["below/test.jsonl"]),
        ("validation", ["dev.jsonl"]),
    ],
)
@pytest.mark.parametrize("kind", ["path", "artifact"])
def test_of_a_folder_with_files_of_several_splits_one_is_taken(
    pvc: Path, tmp_path: Path, kind: str, split: str, files: list[str], capsys: pytest.CaptureFixture
):
    names = ["train-0.jsonl", "train-1.jsonl", "below/test.jsonl", "dev.jsonl", "rows.jsonl"]
    folder = (pvc if kind == "path" else tmp_path / "store") / "set"
    for name in names:
        put(folder / name, jsonl(name))
    put(folder / "README.md", b"x")
    put(folder / "dataset_infos.json", b"{}")

    uri, dataset = (str(folder), None) if kind == "path" else ("", artifact(folder))
    path, count, _ = resolve(uri, split, str(pvc), dataset)

    assert [row.values["messages"][0]["content"] for row in read_rows(Path(path))] == files and count == len(files)
    assert Path(path).is_relative_to(pvc)
    said = capsys.readouterr().out
    assert all(name in said for name in {*names} - {*files})
    # A second run makes nothing anew.
    assert resolve(uri, split, str(pvc), dataset)[0] == path


def test_a_file_of_a_split_that_changes_is_read_anew(pvc: Path):
    for name in ("train-0.jsonl", "train-1.jsonl", "test.jsonl"):
        put(pvc / "set" / name, jsonl(name))
    assert resolve(str(pvc / "set"), "train", str(pvc), None).num_rows == 2
    put(pvc / "set" / "train-1.jsonl", jsonl("a", "b"))

    path, rows, _ = resolve(str(pvc / "set"), "train", str(pvc), None)

    assert rows == 3
    assert [values["messages"][0]["content"] for _, values in read_rows(Path(path))] == ["train-0.jsonl", "a", "b"]


def test_a_split_of_files_that_is_not_there_is_told(pvc: Path):
    for name in ("dev.jsonl", "test.jsonl"):
        put(pvc / "set" / name, jsonl("a"))

    assert refusal(str(pvc / "set"), pvc) == (
        f"dataset_split=train is not in {pvc}/set by the names of its files; allowed: validation, test"
    )


# Held-out rows


@pytest.mark.parametrize(
    ("uri", "split", "taken"),
    [
        ("pvc://held-out.jsonl", "validation", "held-out.jsonl"),
        ("pvc://held-out.jsonl", "", "held-out.jsonl"),
        ("pvc://set", "validation", "dev.jsonl"),
        ("pvc://set", "test", "test.jsonl"),
    ],
)
def test_held_out_rows_come_as_any_dataset_does(pvc: Path, uri: str, split: str, taken: str, capsys):
    for name in ("held-out.jsonl", "set/train.jsonl", "set/dev.jsonl", "set/test.jsonl"):
        put(pvc / name, jsonl(Path(name).name))

    resolved = resolve("pvc://set", "train", str(pvc), None, uri, split)

    assert questions(resolved.dataset_path) == ["train.jsonl"] and questions(resolved.validation_path) == [taken]
    assert "Warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("uri", "split", "message"),
    [
        ("pvc://no.jsonl", "validation", "validation_uri=pvc://no.jsonl: there is nothing at {pvc}/no.jsonl"),
        ("ftp://x", "validation", "validation_uri=ftp://x: unknown scheme 'ftp://'"),
        (
            "pvc://set",
            "validation",
            "validation_uri_split=validation is not in {pvc}/set by the names of its files; allowed: train, test",
        ),
        ("pvc://set", "train", "validation_uri=pvc://set, validation_uri_split=train: names the rows to train on"),
        ("pvc://broken.jsonl", "validation", "broken.jsonl, line 1: is not JSON"),
    ],
)
def test_held_out_rows_that_cannot_be_had_are_told(pvc: Path, uri: str, split: str, message: str):
    put(pvc / "broken.jsonl", b"{")
    for name in ("train", "test"):
        put(pvc / "set" / f"{name}.jsonl", jsonl(name))

    with pytest.raises(InputError) as caught:
        resolve("pvc://set", "train", str(pvc), None, uri, split)
    assert str(caught.value).startswith(message.format(pvc=pvc))


# Artifacts


def test_an_artifact_in_the_workspace_is_used_where_it_lies(pvc: Path):
    rows = put(pvc / "artifacts" / "dataset", jsonl("a"))

    assert resolve("", "train", str(pvc), artifact(rows)) == ResolvedDataset(str(rows), 1)
    assert files_in(pvc) == {rows}


@pytest.mark.parametrize("form", ["file", "folder"])
def test_an_artifact_outside_is_copied_into_the_workspace(pvc: Path, tmp_path: Path, form: str):
    rows = put(tmp_path / "store" / "dataset", jsonl("a", "b"))
    if form == "folder":
        rows.unlink()
        put(rows / "one.jsonl", jsonl("a"))
        put(rows / "below" / "two.jsonl", jsonl("b"))
        put(rows / ".cache" / "three.jsonl", jsonl("c"))
        put(rows / "README.md", b"x")

    path, count, _ = resolve("", "train", str(pvc), artifact(rows))
    shutil.rmtree(tmp_path / "store")

    assert count == 2 and Path(path).is_relative_to(pvc / "datasets") and Path(path).name == "dataset"
    files = [Path(path)] if form == "file" else [Path(path) / "below" / "two.jsonl", Path(path) / "one.jsonl"]
    assert [question for file in files for question in questions(file)] == (
        ["a", "b"] if form == "file" else ["b", "a"]
    )
    assert files_in(pvc) == {*files, Path(path).parent / ".manifest.json"}


def test_a_copy_is_made_once_and_again_when_the_content_changes(pvc: Path, tmp_path: Path):
    rows = put(tmp_path / "store" / "dataset", jsonl("a"))
    first = resolve("", "train", str(pvc), artifact(rows))
    times = {file: file.stat().st_mtime_ns for file in pvc.rglob("*")}

    # Another pod's copy of the same content: the time does not count.
    os.utime(rows, (1, 1))
    assert resolve("", "train", str(pvc), artifact(rows)) == first
    assert {file: file.stat().st_mtime_ns for file in pvc.rglob("*")} == times

    # As long as before, to the byte, and of the same time.
    put(rows, jsonl("b"))
    os.utime(rows, (1, 1))
    second = resolve("", "train", str(pvc), artifact(rows))
    assert second.dataset_path != first.dataset_path
    assert questions(second.dataset_path) == ["b"] and questions(first.dataset_path) == ["a"]


@pytest.mark.parametrize("broken", ["manifest is gone", "manifest is cut", "manifest is of something else"])
def test_a_copy_without_its_manifest_is_made_again(pvc: Path, tmp_path: Path, broken: str):
    rows = put(tmp_path / "store" / "dataset", jsonl("a", "b"))
    copy = Path(resolve("", "train", str(pvc), artifact(rows)).dataset_path)
    manifest = copy.parent / ".manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    if broken == "manifest is cut":
        manifest.write_text(text[:30])
    elif broken == "manifest is of something else":
        manifest.write_text(json.dumps(json.loads(text) | {"fingerprint": "0" * 64}))
    copy.write_bytes(jsonl("cut"))

    assert resolve("", "train", str(pvc), artifact(rows)) == ResolvedDataset(str(copy), 2)
    assert questions(copy) == ["a", "b"] and manifest.read_text() == text


@pytest.mark.parametrize("moment", ["shutil.copyfile", "source.write_manifest", "os.rename"])
def test_a_copy_that_was_killed_is_not_used(pvc: Path, tmp_path: Path, moment: str):
    rows = put(tmp_path / "store" / "dataset", jsonl("a"))
    child = """
import os, shutil, signal, sys
from types import SimpleNamespace
from kfp_osft.stages.resolve_dataset import source
def killed(*arguments, **named):
    if "copyfile" in sys.argv[3]:
        arguments[1].write_text("{")
    os.kill(os.getpid(), signal.SIGKILL)
module, name = sys.argv[3].split(".")
setattr(globals()[module], name, killed)
source.resolve("", "train", sys.argv[1], SimpleNamespace(path=sys.argv[2], uri="", metadata={}))
"""
    process = subprocess.run([sys.executable, "-c", child, str(pvc), str(rows), moment])
    assert process.returncode == -signal.SIGKILL

    assert questions(resolve("", "train", str(pvc), artifact(rows)).dataset_path) == ["a"]


@pytest.mark.parametrize("key", ["pvc_path", "pvc_dir", "artifact_path"])
@pytest.mark.parametrize("path", ["", "{tmp}/nothing", "{tmp}/empty"])
def test_an_artifact_without_data_is_found_by_its_metadata(pvc: Path, tmp_path: Path, key: str, path: str):
    put(tmp_path / "empty", b"")
    rows = put(pvc / "data" / "rows.jsonl", jsonl("a"))
    dataset = artifact(path.format(tmp=tmp_path), **{key: str(rows)})

    assert resolve("", "train", str(pvc), dataset) == ResolvedDataset(str(rows), 1)


def test_the_data_of_an_artifact_goes_before_its_metadata_and_pvc_path_before_the_others(pvc: Path, tmp_path: Path):
    own = put(pvc / "own", jsonl("own"))
    metadata = {key: str(put(pvc / f"{key}.jsonl", jsonl(key))) for key in ("artifact_path", "pvc_dir", "pvc_path")}

    assert questions(resolve("", "train", str(pvc), artifact(own, **metadata)).dataset_path) == ["own"]
    for key in ("pvc_path", "pvc_dir", "artifact_path"):
        dataset = artifact(tmp_path / "nothing", **metadata)
        assert questions(resolve("", "train", str(pvc), dataset).dataset_path) == [key]
        metadata[key] = ""


def test_an_artifact_that_leads_nowhere_is_told(pvc: Path, tmp_path: Path):
    nothing = tmp_path / "nothing"

    assert refusal("", pvc, artifact(nothing, rows=3)) == (
        f"the dataset artifact has no data at {nothing} and no metadata pvc_path, pvc_dir, artifact_path "
        "that says where it is"
    )
    assert refusal("", pvc, artifact(nothing, pvc_path="pvc://no")) == (
        f"dataset_uri=pvc://no: there is nothing at {pvc}/no"
    )


@pytest.mark.parametrize("value", [{"struct": {"train": "/pvc/rows"}}, {"train": "/pvc/rows"}, 3, " "])
def test_metadata_that_is_not_text_says_no_place(pvc: Path, tmp_path: Path, value: object):
    rows = put(pvc / "rows.jsonl", jsonl("a"))
    dataset = artifact(tmp_path / "nothing", pvc_path=value, pvc_dir=str(rows))

    assert resolve("", "train", str(pvc), dataset) == ResolvedDataset(str(rows), 1)


def test_a_copied_artifact_tells_its_uri_and_a_later_one_of_the_same_rows_its_own(pvc: Path, tmp_path: Path):
    rows = put(tmp_path / "rows", jsonl("a"))

    for uri in ("s3://pipelines/run-1/rows", "s3://pipelines/run-2/rows"):
        path = resolve("", "train", str(pvc), artifact(rows, uri)).dataset_path
        assert run_file.dataset_source(path) == {"uri": uri}


def test_the_split_of_a_copied_artifact_is_told(pvc: Path, tmp_path: Path):
    saved = tmp_path / "saved"
    Dataset = pytest.importorskip("datasets").Dataset
    rows = Dataset.from_list([{"messages": [{"role": "user", "content": "a"}]}])
    pytest.importorskip("datasets").DatasetDict({"train": rows, "test": rows}).save_to_disk(saved)

    path = resolve("", "test", str(pvc), artifact(saved, "s3://pipelines/run/saved")).dataset_path

    assert run_file.dataset_source(path) == {"uri": "s3://pipelines/run/saved", "split": "test"}


def test_a_uri_and_an_artifact_at_once_are_refused(pvc: Path):
    rows = put(pvc / "rows.jsonl", jsonl("a"))

    assert refusal(str(rows), pvc, artifact(rows)) == (
        f"dataset_uri={rows} and an upstream dataset are both given; give one of them"
    )


LONG = "a" * 5000


@pytest.mark.parametrize(
    "uri",
    [
        *("a\0b.jsonl", "/a\0b.jsonl", "~\0/x.jsonl", "pvc://a\0b", "hf://a\0b/c", "s3://a\0b/c.jsonl", "org/a\nb"),
        *(f"/{LONG}", f"{LONG}.jsonl", f"org/{LONG}", f"a/b@{LONG}", f"pvc://{LONG}", f"file:///{LONG}"),
        *("/a\udcff.jsonl", "a\udcff.jsonl", "org/\udcff", "s3://b/\udcff.jsonl", "http://127.0.0.1:1/\udcff.jsonl"),
        *("~nosuchuser/x.jsonl", "/dev/null", "/proc/self/mem", "http://", "http://h:99999/x", "http://[::1/x.jsonl"),
        "\x1b]52;c;Zm9v\x07.jsonl",
    ],
)
def test_what_is_no_name_is_one_short_sentence(uri: str, tmp_path: Path):
    with pytest.raises(InputError) as error:
        resolve(uri, "train", str(tmp_path / "pvc"), None)
    said = str(error.value)
    assert "dataset" in said and len(said) < 1000 and "\n" not in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("state.json", text) for text in ("[]", "[" * 100_000, "\udcff", '{"_data_files": [{"filename": 1}]}')),
        ("state.json", '{"_data_files": [{"filename": "a\\u0000.arrow"}]}'),
        ("state.json", f'{{"_data_files": [{{"filename": "{LONG}"}}]}}'),
        ("state.json", '{"_data_files": []}'),
        ("state.json", '{"_data_files": [{"filename": "missing.arrow"}]}'),
        *(("dataset_dict.json", text) for text in ("[]", '{"splits": "train"}', '{"splits": ["a\\u0000"]}')),
        ("dataset_dict.json", '{"splits": ' + "[" * 100_000),
        ("dataset_dict.json", '{"splits": ["train"]}'),
    ],
)
def test_a_saved_dataset_that_is_malformed_is_one_sentence(name: str, content: str, tmp_path: Path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    (folder / "data.arrow").write_bytes(b"no Arrow")
    with pytest.raises(InputError) as error:
        resolve(str(folder), "train", str(tmp_path / "pvc"), None)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
