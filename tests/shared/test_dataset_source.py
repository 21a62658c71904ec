import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer

from kfp_osft.shared.dataset_source import ResolvedDataset, resolve
from kfp_osft.shared.errors import InputError


def jsonl(*questions: str) -> bytes:
    return "".join(
        json.dumps({"messages": [{"role": "user", "content": question},
                                 {"role": "assistant", "content": "Größe"}]},
                   ensure_ascii=False) + "\n"
        for question in questions).encode()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def questions(path: str | Path) -> list[str]:
    return [json.loads(line)["messages"][0]["content"] for line in Path(path).read_text().splitlines()]


def error_of(uri: str, pvc: Path, dataset: object = None) -> str:
    with pytest.raises(InputError) as caught:
        resolve(uri, "train", str(pvc), dataset)
    return str(caught.value)


def artifact(path: Path | str, **metadata: object) -> SimpleNamespace:
    return SimpleNamespace(path=str(path), metadata=metadata)


@pytest.fixture
def pvc(tmp_path: Path) -> Path:
    return tmp_path / "pvc"


_NUMBERS = itertools.count()

# Paths


@pytest.mark.parametrize("uri", ["{pvc}/data/rows.jsonl", "file://{pvc}/data/rows.jsonl",
                                 "pvc://data/rows.jsonl", "pvc:///data/rows.jsonl", "data/rows.jsonl",
                                 "~/pvc/data/rows.jsonl",
                                 "{pvc}/data", "pvc://data", "data"])
def test_a_path_is_used_where_it_lies(pvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = put(pvc / "data" / "rows.jsonl", jsonl("a", "b"))

    path = rows if uri.endswith("rows.jsonl") else rows.parent
    assert resolve(uri.format(pvc=pvc), "train", str(pvc), None) == ResolvedDataset(str(path), 2)
    assert [file for file in pvc.rglob("*") if file.is_file()] == [rows]


@pytest.mark.parametrize("uri", ["rows.jsonl", "./rows.jsonl", "../here/rows.jsonl", "rows"])
def test_a_relative_path_becomes_an_absolute_one(pvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 uri: str):
    put(tmp_path / "here" / "rows.jsonl", jsonl("a"))
    put(tmp_path / "here" / "rows" / "part.jsonl", jsonl("a"))
    monkeypatch.chdir(tmp_path / "here")

    path, rows = resolve(uri, "train", str(pvc), None)

    assert Path(path).is_absolute() and Path(path).samefile(tmp_path / "here" / uri)
    assert rows == 1


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "no dataset: give dataset_uri (a path, pvc://path (below pvc_path), org/name or hf://org/name "
             "of a Hugging Face dataset), or an upstream dataset artifact"),
        ("/no/rows.jsonl", "dataset_uri=/no/rows.jsonl: there is nothing at /no/rows.jsonl"),
        ("pvc://no/rows.jsonl", "dataset_uri=pvc://no/rows.jsonl: there is nothing at {pvc}/no/rows.jsonl"),
        ("~nobody-of-this-name/rows.jsonl",
         "dataset_uri=~nobody-of-this-name/rows.jsonl: there is nothing at "),
        ("no/rows.jsonl", "dataset_uri=no/rows.jsonl: there is nothing at no/rows.jsonl"),
        ("gs://bucket/rows.jsonl",
         "dataset_uri=gs://bucket/rows.jsonl: unknown scheme 'gs://'; allowed: a path, "),
        ("a/b/c/d", "dataset_uri=a/b/c/d: is no Hugging Face dataset id; allowed: a path, "),
        ("hf://", "dataset_uri=hf://: is no Hugging Face dataset id; allowed: a path, "),
        ("org/na me", "dataset_uri=org/na me: is no Hugging Face dataset id; allowed: a path, "),
    ],
)
def test_a_dataset_uri_that_leads_nowhere_is_told(pvc: Path, uri: str, message: str):
    assert error_of(uri, pvc).startswith(message.format(pvc=pvc))


@pytest.mark.parametrize("content", [b"", b"\n", b"{"])
def test_a_dataset_without_readable_rows_is_told(pvc: Path, content: bytes):
    rows = put(pvc / "rows.jsonl", content)

    assert rows.name in error_of(str(rows), pvc)


def test_a_workspace_that_cannot_be_written_is_told(tmp_path: Path):
    file = put(tmp_path / "file", b"")
    rows = put(tmp_path / "rows.jsonl", jsonl("a"))

    assert error_of(str(rows), file / "pvc") == f"pvc_path={file}/pvc cannot be written: Not a directory"


# Artifacts


def test_an_artifact_in_the_workspace_is_used_where_it_lies(pvc: Path):
    rows = put(pvc / "artifacts" / "dataset", jsonl("a"))

    assert resolve("", "train", str(pvc), artifact(rows)) == ResolvedDataset(str(rows), 1)
    assert not (pvc / "datasets").exists()


@pytest.mark.parametrize("form", ["file", "folder"])
def test_an_artifact_outside_is_copied_into_the_workspace(pvc: Path, tmp_path: Path, form: str):
    rows = put(tmp_path / "store" / "dataset", jsonl("a", "b"))
    if form == "folder":
        rows.unlink()
        put(rows / "one.jsonl", jsonl("a"))
        put(rows / "below" / "two.jsonl", jsonl("b"))
        put(rows / ".cache" / "three.jsonl", jsonl("c"))
        put(rows / "README.md", b"x")

    path, count = resolve("", "train", str(pvc), artifact(rows))
    shutil.rmtree(tmp_path / "store")

    assert count == 2 and Path(path).is_relative_to(pvc / "datasets") and Path(path).name == "dataset"
    files = [Path(path)] if form == "file" else [Path(path) / "below" / "two.jsonl", Path(path) / "one.jsonl"]
    assert [question for file in files for question in questions(file)] == (
        ["a", "b"] if form == "file" else ["b", "a"])
    copies = {file for file in pvc.rglob("*") if file.is_file()}
    assert copies == {*files, Path(path).parent / ".manifest.json"}


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


@pytest.mark.parametrize("moment", ["shutil.copyfile", "dataset_source.write_manifest", "os.rename"])
def test_a_copy_that_was_killed_is_not_used(pvc: Path, tmp_path: Path, moment: str):
    rows = put(tmp_path / "store" / "dataset", jsonl("a"))
    child = """
import os, shutil, signal, sys
from types import SimpleNamespace
from kfp_osft.shared import dataset_source
def killed(*arguments):
    if "copyfile" in sys.argv[3]:
        arguments[1].write_text("{")
    os.kill(os.getpid(), signal.SIGKILL)
module, name = sys.argv[3].split(".")
setattr(globals()[module], name, killed)
dataset_source.resolve("", "train", sys.argv[1], SimpleNamespace(path=sys.argv[2], metadata={}))
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


def test_the_data_of_an_artifact_goes_before_its_metadata_and_pvc_path_before_the_others(pvc: Path,
                                                                                         tmp_path: Path):
    own = put(pvc / "own", jsonl("own"))
    metadata = {key: str(put(pvc / f"{key}.jsonl", jsonl(key)))
                for key in ("artifact_path", "pvc_dir", "pvc_path")}

    assert questions(resolve("", "train", str(pvc), artifact(own, **metadata)).dataset_path) == ["own"]
    for key in ("pvc_path", "pvc_dir", "artifact_path"):
        dataset = artifact(tmp_path / "nothing", **metadata)
        assert questions(resolve("", "train", str(pvc), dataset).dataset_path) == [key]
        metadata[key] = ""


def test_an_artifact_that_leads_nowhere_is_told(pvc: Path, tmp_path: Path):
    nothing = tmp_path / "nothing"

    assert error_of("", pvc, artifact(nothing, rows=3)) == (
        f"the dataset artifact has no data at {nothing} and no metadata pvc_path, pvc_dir, artifact_path "
        "that says where it is")
    assert error_of("", pvc, artifact(nothing, pvc_path="pvc://no")) == (
        f"dataset_uri=pvc://no: there is nothing at {pvc}/no")


def test_a_uri_and_an_artifact_at_once_are_refused(pvc: Path):
    rows = put(pvc / "rows.jsonl", jsonl("a"))

    assert error_of(str(rows), pvc, artifact(rows)) == (
        f"dataset_uri={rows} and an upstream dataset are both given; give one of them")


# The Hugging Face Hub, through the real datasets and huggingface_hub

# They read HF_ENDPOINT when they are imported: a process of its own resolves what it is told line by line.
WORKER = """
import json, os, sys
from kfp_osft.shared.dataset_source import resolve
with os.fdopen(int(sys.argv[1]), "w") as answers:
    for line in sys.stdin:
        uri, split, pvc, token = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        if token:
            os.environ["HF_TOKEN"] = token
        try:
            answer = list(resolve(uri, split, pvc, None))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)
"""


class Worker:
    """Resolves datasets in another process; `output` is what it printed."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.folder, self._log = folder, folder / "output.txt"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        answers, answers_of_child = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(answers_of_child)],
                stdin=subprocess.PIPE, stdout=log, stderr=log,
                pass_fds=[answers_of_child], text=True, cwd=folder,
                env=environment | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"),
                                   # Else each load tells a server elsewhere.
                                   "HF_UPDATE_DOWNLOAD_COUNTS": "0"})
        os.close(answers_of_child)
        self._answers = os.fdopen(answers)

    def __call__(self, uri: str, pvc: Path, split: str = "train", token: str = "") -> tuple[str, int] | str:
        """dataset_path and num_rows, or the error."""
        print(json.dumps([uri, split, str(pvc), token]), file=self._process.stdin, flush=True)
        answer = self._answers.readline()
        assert answer, self.output
        return json.loads(answer)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._answers.close()


@pytest.fixture(scope="module")
def all_of_hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def worker(all_of_hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process beside which the Hub can be reached."""
    process = Worker(all_of_hub.endpoint, tmp_path_factory.mktemp("worker"))
    yield process
    process.close()


@pytest.fixture
def hub(all_of_hub: HubServer) -> HubServer:
    all_of_hub.requests.clear()
    all_of_hub.broken = None
    return all_of_hub


def not_loaded(name: str, split: str = "train") -> str:
    return f"InputError: dataset_uri={name}, dataset_split={split}: cannot be loaded: "


@pytest.fixture
def name() -> str:
    """A dataset's id that no other test uses."""
    return f"org/rows-{next(_NUMBERS)}"


@pytest.mark.parametrize(
    ("prefix", "files"),
    [
        ("", {"train.jsonl": jsonl("a", "b")}),
        ("hf://",
         {"data/train-0.jsonl": jsonl("a"), "data/train-1.jsonl": jsonl("b"), "README.md": b"# Rows"}),
        ("", {"train.json": b"[" + b",".join(jsonl("a", "b").splitlines()) + b"]"}),
    ],
    ids=["id", "uri", "array"],
)
def test_a_hub_dataset_is_brought_into_the_workspace(worker: Worker, hub: HubServer, pvc: Path, name: str,
                                                     prefix: str, files: dict):
    hub.commit(name, files)

    path, rows = worker(prefix + name, pvc)

    assert rows == 2 and Path(path).is_relative_to(pvc / "datasets")
    assert Path(path).read_bytes() == jsonl("a", "b").replace(b'": ', b'":').replace(b", ", b",")
    assert {file.name for file in pvc.rglob("*") if file.is_file()} == {"data.jsonl", ".manifest.json"}


def test_the_split_that_is_asked_for_is_taken(worker: Worker, hub: HubServer, pvc: Path, name: str):
    hub.commit(name, {"train.jsonl": jsonl("a", "b"), "test.jsonl": jsonl("c")})

    paths = {split: worker(name, pvc, split=split)[0] for split in ("train", "test", "train[1:]")}

    assert {split: questions(path) for split, path in paths.items()} == {
        "train": ["a", "b"], "test": ["c"], "train[1:]": ["b"]}
    assert worker(name, pvc, split="no") == (
        not_loaded(name, split="no") + "Unknown split \"no\". Should be one of ['train', 'test'].")
    assert worker(name, pvc, split="").startswith(not_loaded(name, split=""))


def test_the_configuration_that_is_asked_for_is_taken(worker: Worker, hub: HubServer, pvc: Path, name: str):
    card = (b"---\nconfigs:\n- config_name: de\n  data_files: a.jsonl\n"
            b"- config_name: en\n  data_files: b.jsonl\n---\n")
    hub.commit(name, {"README.md": card, "a.jsonl": jsonl("a"), "b.jsonl": jsonl("b")})

    addresses = {f"{name}/de": "a", f"hf://{name}/en": "b", f"{name}@main/en": "b", f"{name}:de": "a"}
    assert {uri: questions(worker(uri, pvc)[0])[0] for uri in addresses} == addresses
    assert worker(name, pvc) == (
        not_loaded(name) + "Config name is missing. Please pick one among the available configs: ['de', "
                           "'en']")
    assert "'fr' not found. Available: ['de', 'en']" in worker(f"{name}/fr", pvc)


def test_a_second_run_fetches_nothing_again(worker: Worker, hub: HubServer, pvc: Path, name: str):
    hub.commit(name, {"train.jsonl": jsonl("a")})
    first = worker(name, pvc)
    assert f"GET /api/datasets/{name}" in hub.requests
    assert any("/train.jsonl" in request for request in hub.requests)
    hub.requests.clear()

    assert worker(f"hf://{name}", pvc) == first
    # Is it still the same revision?
    assert hub.requests == [f"GET /api/datasets/{name}"]


def test_a_new_revision_is_fetched_and_a_named_one_is_kept(worker: Worker, hub: HubServer, pvc: Path,
                                                           name: str):
    commit = hub.commit(name, {"train.jsonl": jsonl("old")})
    old = worker(name, pvc)[0]
    hub.commit(name, {"train.jsonl": jsonl("new")})
    hub.commit(name, {"train.jsonl": jsonl("branch")}, revision="branch")

    assert questions(worker(name, pvc)[0]) == ["new"]
    assert questions(worker(f"{name}@branch", pvc)[0]) == ["branch"]
    hub.requests.clear()
    assert worker(f"hf://{name}@{commit}", pvc)[0] == old and questions(old) == ["old"]
    assert hub.requests == [f"GET /api/datasets/{name}/revision/{commit}"]


def test_rows_of_an_older_revision_are_never_taken_for_the_new_one(worker: Worker, hub: HubServer, pvc: Path,
                                                                   name: str):
    hub.commit(name, {"train.jsonl": jsonl("old")})
    worker(name, pvc)
    hub.commit(name, {"train.jsonl": jsonl("new")})
    # `datasets` then looks what it has in its cache.
    hub.broken = re.compile(f"{name}/resolve/")

    assert worker(name, pvc).startswith(not_loaded(name))
    hub.broken = None
    assert questions(worker(name, pvc)[0]) == ["new"]


def test_a_fetch_that_fails_leaves_nothing(worker: Worker, hub: HubServer, pvc: Path, name: str):
    hub.commit(name, {"train.jsonl": jsonl("a")})
    hub.broken = re.compile(r"GET .*/train\.jsonl")

    assert worker(name, pvc).startswith(not_loaded(name))
    assert [file for file in pvc.rglob("*") if file.is_file()] == []


NOT_TO_BE_SEEN = ("the Hugging Face Hub has no such dataset, or it is gated and HF_TOKEN is missing or may "
                  "not "
                  "read it")


@pytest.mark.parametrize(
    ("files", "uri", "message"),
    [
        (None, "{name}", "InputError: dataset_uri={name}: " + NOT_TO_BE_SEEN),
        ({"train.jsonl": jsonl("a")}, "{name}@no",
         "InputError: dataset_uri={name}@no: the dataset has no revision no"),
        (None, "org/a--b",
         "InputError: dataset_uri=org/a--b: is no Hugging Face dataset id: Cannot have -- or .. in "),
        ({"README.md": b"x"}, "{name}",
         not_loaded("{name}") + "The directory at hf://datasets/{name}@"),
        ({"{base}.py": b"x"}, "{name}",
         not_loaded("{name}") + "Dataset scripts are no longer supported, but found {base}.py"),
        ({"train.jsonl": b"{\n"}, "{name}", not_loaded("{name}")),
    ],
    ids=["missing", "revision", "id", "no-data", "script", "broken"],
)
def test_a_hub_dataset_that_cannot_be_had_is_told(worker: Worker, hub: HubServer, pvc: Path, name: str,
                                                  files: dict | None, uri: str, message: str):
    base = name.removeprefix("org/")
    if files is not None:
        hub.commit(name, {path.format(base=base): content for path, content in files.items()})

    assert worker(uri.format(name=name), pvc).startswith(message.format(name=name, base=base))
    assert [file for file in pvc.rglob("*") if file.is_file()] == []


def test_a_folder_of_the_same_name_is_not_taken_for_the_hub_dataset(worker: Worker, hub: HubServer, pvc: Path,
                                                                    name: str):
    hub.commit(name, {"train.jsonl": jsonl("hub")})
    folder = put(worker.folder / name / "rows.jsonl", jsonl("folder")).parent

    assert worker(f"hf://{name}", pvc) == (
        f"InputError: dataset_uri=hf://{name}: `datasets` would take the folder {folder} for it; give the "
        "folder's whole path if it is meant, else start in another folder")
    assert worker(name, pvc) == [str(folder), 1]


@pytest.mark.parametrize(
    ("access", "without", "with_wrong"),
    [
        ("private", "InputError: dataset_uri={name}: " + NOT_TO_BE_SEEN,
         "InputError: dataset_uri={name}: " + NOT_TO_BE_SEEN),
        ("gated",
         not_loaded("{name}") + "Dataset '{name}' is a gated dataset on the Hub. You must be authenticated "
                                "to "
         "access it. (HF_TOKEN is missing, or may not read it)",
         not_loaded("{name}") + "Dataset '{name}' is a gated dataset on the Hub. Visit the dataset page at "
         "https://huggingface.co/datasets/{name} to ask for access. (HF_TOKEN is missing, or may not read "
         "it)"),
    ],
)
def test_a_closed_dataset_opens_with_its_token_which_appears_nowhere(
        worker: Worker, hub: HubServer, pvc: Path, name: str, access: str, without: str, with_wrong: str):
    hub.commit(name, {"train.jsonl": jsonl("a")}, **{access: True})
    wrong = "hf_wrongwrongwrongwrong"

    answers = [worker(name, pvc), worker(name, pvc, token=wrong), worker(name, pvc, token=hub.token)]

    assert answers[:2] == [without.format(name=name), with_wrong.format(name=name)]
    assert questions(answers[2][0]) == ["a"]
    written = [file for folder in (pvc, worker.folder) for file in folder.rglob("*") if file.is_file()]
    assert len(written) > 3
    for token in (hub.token, wrong):
        assert token not in worker.output + json.dumps(answers)
        assert not [file for file in written if token.encode() in file.read_bytes()]


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path, pvc: Path, unused_port: int):
    worker = Worker(f"http://127.0.0.1:{unused_port}", tmp_path)

    answer = worker("org/rows", pvc)
    worker.close()

    assert answer.startswith("InputError: dataset_uri=org/rows: the Hugging Face Hub cannot be reached: ")
    assert "Connection refused" in answer and "Traceback" not in worker.output


def test_a_hub_that_is_out_of_order_is_told(worker: Worker, hub: HubServer, pvc: Path):
    hub.broken = re.compile("")

    assert worker("org/rows", pvc).startswith(
        "InputError: dataset_uri=org/rows: the Hugging Face Hub cannot be reached: ")


@pytest.fixture
def unused_port() -> int:
    """A port of this computer where nothing listens."""
    with HubServer() as server:
        return int(server.endpoint.rpartition(":")[2])
