"""The Hugging Face Hub of the tests, through the real datasets and huggingface_hub."""

import decimal
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from fakes.hub import HubServer
from helpers.killed_resolve import resolve_in_a_process
from helpers.question_rows import files_in, jsonl, put, questions

_NUMBERS = itertools.count()

# They read HF_ENDPOINT when they are imported: a process of its own resolves what it is told line by line.
WORKER = """
import json, os, sys
from kfp_osft.stages.resolve_dataset.source import resolve
with os.fdopen(int(sys.argv[1]), "w") as answers:
    for line in sys.stdin:
        uri, split, pvc, token = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        if token:
            os.environ["HF_TOKEN"] = token
        try:
            answer = list(resolve(uri, split, pvc, None))[:2]
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
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[answers_of_child],
                text=True,
                cwd=folder,
                env=environment
                | {
                    "HF_ENDPOINT": endpoint,
                    "HF_HOME": str(folder / "home"),
                    # Else each load tells a server elsewhere.
                    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
                },
            )
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
    all_of_hub.on_request = lambda line: None
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
        ("hf://", {"data/train-0.jsonl": jsonl("a"), "data/train-1.jsonl": jsonl("b"), "README.md": b"# Rows"}),
        ("", {"train.json": b"[" + b",".join(jsonl("a", "b").splitlines()) + b"]"}),
    ],
    ids=["id", "uri", "array"],
)
def test_a_hub_dataset_is_brought_into_the_workspace(
    worker: Worker, hub: HubServer, pvc: Path, name: str, prefix: str, files: dict
):
    hub.commit(name, files)

    path, rows = worker(prefix + name, pvc)

    assert rows == 2 and Path(path).is_relative_to(pvc / "datasets")
    assert Path(path).read_bytes() == jsonl("a", "b").replace(b'": ', b'":').replace(b", ", b",")
    assert {file.name for file in files_in(pvc)} == {"data.jsonl", ".manifest.json"}


def test_what_tables_fill_in_and_what_is_not_text_does_not_come_along(
    worker: Worker, hub: HubServer, pvc: Path, name: str
):
    messages = [
        [{"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"city": "Wien"}}]}],
        [{"role": "assistant", "content": "I", "tool_calls": [{"name": "g", "arguments": {"unit": "C"}}]}],
    ]
    table = pyarrow.table(
        {
            "messages": messages,
            "image": [{"bytes": b"\xff", "path": "a.png"}] * 2,
            "raw": [b"\xff"] * 2,
            "at": pyarrow.array([0, 1], pyarrow.timestamp("us")),
            "price": [decimal.Decimal("1.50")] * 2,
        }
    )
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    hub.commit(name, {"train.parquet": sink.getvalue().to_pybytes()})

    path, count = worker(name, pvc)

    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    del messages[0][0]["content"]
    assert count == 2 and rows == [
        {"messages": each, "at": f"1970-01-01 00:00:00{fraction}", "price": "1.50"}
        for each, fraction in zip(messages, ("", ".000001"), strict=True)
    ]
    assert "Columns left out because they are not text: image, raw" in worker.output


def test_objects_that_differ_from_row_to_row_stay_what_they_are(worker: Worker, hub: HubServer, pvc: Path, name: str):
    rows = [
        {"messages": [{"role": "assistant", "tool_calls": [{"arguments": {"city": "Wien", "unit": None}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"arguments": {"city": 3}}]}]},
    ]
    hub.commit(name, {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})

    path, _ = worker(name, pvc)

    assert [json.loads(line) for line in Path(path).read_text().splitlines()] == rows


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train-0.jsonl": b'{"question": "a", "answer": "b"}\n', "train-1.jsonl": b'{"prompt": "a"}\n'},
            "its files have different columns: one of them also has 'prompt', unlike the first; name the files",
        ),
        (
            {"train-0.csv": b"question,answer\na,b\n", "train-1.csv": b"question\na\n"},
            "Schema at index 1 was different",
        ),
        (
            {"train-0.jsonl": b'{"question": "a"}\n', "train-1.jsonl": b'{"question": ["a"]}\n'},
            "Couldn't cast array of type list<item: string> to string",
        ),
    ],
    ids=["columns", "csv", "types"],
)
def test_files_that_do_not_fit_together_are_told_with_the_difference(
    worker: Worker, hub: HubServer, pvc: Path, name: str, files: dict, message: str
):
    hub.commit(name, files)

    assert message in worker(name, pvc) and not files_in(pvc)


def test_the_split_that_is_asked_for_is_taken(worker: Worker, hub: HubServer, pvc: Path, name: str):
    hub.commit(name, {"train.jsonl": jsonl("a", "b"), "test.jsonl": jsonl("c")})

    paths = {split: worker(name, pvc, split=split)[0] for split in ("train", "test", "train[1:]")}

    assert {split: questions(path) for split, path in paths.items()} == {
        "train": ["a", "b"],
        "test": ["c"],
        "train[1:]": ["b"],
    }
    assert worker(name, pvc, split="no") == (
        not_loaded(name, split="no") + "Unknown split \"no\". Should be one of ['train', 'test']."
    )
    assert worker(name, pvc, split="").startswith(not_loaded(name, split=""))


def test_the_configuration_that_is_asked_for_is_taken(worker: Worker, hub: HubServer, pvc: Path, name: str):
    card = b"---\nconfigs:\n- config_name: de\n  data_files: a.jsonl\n- config_name: en\n  data_files: b.jsonl\n---\n"
    hub.commit(name, {"README.md": card, "a.jsonl": jsonl("a"), "b.jsonl": jsonl("b")})

    addresses = {
        f"{name}/de": "a",
        f"hf://{name}/en": "b",
        f"hf://datasets/{name}/en": "b",
        f"{name}@main/en": "b",
        f"{name}:de": "a",
    }
    assert {uri: questions(worker(uri, pvc)[0])[0] for uri in addresses} == addresses
    assert worker(name, pvc) == (
        not_loaded(name) + "Config name is missing. Please pick one among the available configs: ['de', 'en']"
    )
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


def test_a_new_revision_is_fetched_and_a_named_one_is_kept(worker: Worker, hub: HubServer, pvc: Path, name: str):
    commit = hub.commit(name, {"train.jsonl": jsonl("old")})
    old = worker(name, pvc)[0]
    hub.commit(name, {"train.jsonl": jsonl("new")})
    hub.commit(name, {"train.jsonl": jsonl("branch")}, revision="branch")

    assert questions(worker(name, pvc)[0]) == ["new"]
    assert questions(worker(f"{name}@branch", pvc)[0]) == ["branch"]
    hub.requests.clear()
    assert worker(f"hf://{name}@{commit}", pvc)[0] == old and questions(old) == ["old"]
    assert hub.requests == [f"GET /api/datasets/{name}/revision/{commit}"]


def test_rows_of_an_older_revision_are_never_taken_for_the_new_one(
    worker: Worker, hub: HubServer, pvc: Path, name: str
):
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
    assert not files_in(pvc)


@pytest.mark.slow
def test_a_killed_fetch_gives_the_same_bytes_when_it_is_run_again(hub: HubServer, pvc: Path, name: str, tmp_path: Path):
    hub.commit(name, {"train.jsonl": jsonl(*map(str, range(5000))), "README.md": b"# Rows"})
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    # With a home of its own: there huggingface_hub keeps the files of a revision.
    undisturbed = resolve_in_a_process(
        name, tmp_path / "other", environment=environment | {"HF_HOME": str(tmp_path / "other home")}
    )
    running = []

    def kill_at(request: str) -> None:
        hub.on_request = lambda line: re.search(request, line) and os.kill(running[-1], signal.SIGKILL)

    for point in (rf"GET /api/datasets/{name}$", r"GET .*/resolve/.*/train\.jsonl", "publishing", "renaming"):
        is_request = point.startswith("GET")
        if is_request:
            kill_at(point)
        moment = None if is_request else point
        assert resolve_in_a_process(name, pvc, moment, environment, running.append) is None, point
        hub.on_request = lambda line: None
        assert not list(pvc.glob("datasets/org--*")), point
    path = resolve_in_a_process(name, pvc, None, environment)

    assert path.relative_to(pvc) == undisturbed.relative_to(tmp_path / "other")
    assert path.read_bytes() == undisturbed.read_bytes() and len(questions(path)) == 5000


NOT_TO_BE_SEEN = "the Hugging Face Hub has no such dataset, or it is gated and HF_TOKEN is missing or may not read it"


@pytest.mark.parametrize(
    ("files", "uri", "message"),
    [
        (None, "{name}", "InputError: dataset_uri={name}: " + NOT_TO_BE_SEEN),
        ({"train.jsonl": jsonl("a")}, "{name}@no", "InputError: dataset_uri={name}@no: the dataset has no revision no"),
        (
            None,
            "org/a--b",
            "InputError: dataset_uri=org/a--b: is not a Hugging Face dataset id: Cannot have -- or .. in ",
        ),
        ({"README.md": b"x"}, "{name}", not_loaded("{name}") + "The directory at hf://datasets/{name}@"),
        (
            {"{base}.py": b"x"},
            "{name}",
            not_loaded("{name}") + "Dataset scripts are no longer supported, but found {base}.py",
        ),
        ({"train.jsonl": b"{\n"}, "{name}", not_loaded("{name}")),
    ],
    ids=["missing", "revision", "id", "no-data", "script", "broken"],
)
def test_a_hub_dataset_that_cannot_be_had_is_told(
    worker: Worker, hub: HubServer, pvc: Path, name: str, files: dict | None, uri: str, message: str
):
    base = name.removeprefix("org/")
    if files is not None:
        hub.commit(name, {path.format(base=base): content for path, content in files.items()})

    assert worker(uri.format(name=name), pvc).startswith(message.format(name=name, base=base))
    assert not files_in(pvc)


def test_a_folder_of_the_same_name_is_not_taken_for_the_hub_dataset(
    worker: Worker, hub: HubServer, pvc: Path, name: str
):
    hub.commit(name, {"train.jsonl": jsonl("hub")})
    folder = put(worker.folder / name / "rows.jsonl", jsonl("folder")).parent

    assert worker(f"hf://{name}", pvc) == (
        f"InputError: dataset_uri=hf://{name}: `datasets` would load the folder {folder} instead; give the "
        "folder's full path if you mean it, otherwise run from another folder"
    )
    assert worker(name, pvc) == [str(folder), 1]


@pytest.mark.parametrize(
    ("access", "without", "with_wrong"),
    [
        (
            "private",
            "InputError: dataset_uri={name}: " + NOT_TO_BE_SEEN,
            "InputError: dataset_uri={name}: " + NOT_TO_BE_SEEN,
        ),
        (
            "gated",
            not_loaded("{name}") + "Dataset '{name}' is a gated dataset on the Hub. You must be authenticated "
            "to "
            "access it. (HF_TOKEN is missing, or may not read it)",
            not_loaded("{name}") + "Dataset '{name}' is a gated dataset on the Hub. Visit the dataset page at "
            "https://huggingface.co/datasets/{name} to ask for access. (HF_TOKEN is missing, or may not read "
            "it)",
        ),
    ],
)
def test_a_closed_dataset_opens_with_its_token_which_appears_nowhere(
    worker: Worker, hub: HubServer, pvc: Path, name: str, access: str, without: str, with_wrong: str
):
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
        "InputError: dataset_uri=org/rows: the Hugging Face Hub cannot be reached: "
    )


def test_a_copy_that_was_cut_or_is_gone_is_loaded_again(hub: HubServer, worker: Worker, pvc: Path, name: str):
    hub.commit(name, {"rows.jsonl": jsonl("a", "b", "c")})
    path, rows = worker(name, pvc)
    before = Path(path).read_bytes()

    for damage in (lambda: os.truncate(path, len(before.splitlines()[0]) + 1), lambda: os.remove(path)):
        damage()
        assert worker(name, pvc) == [path, rows]
        assert Path(path).read_bytes() == before


@pytest.fixture
def unused_port() -> int:
    """A port of this computer where nothing listens."""
    with HubServer() as server:
        return int(server.endpoint.rpartition(":")[2])
