"""Fixtures of all tests, from bare to full: a tiny model, rows, kfp.local in a folder of the test's."""

import builtins
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.s3 import S3Server
from helpers.interpreters import run
from helpers.tiny_model import make_tiny_model, write_chat_rows
from pytest_kfp_local import KfpLocal

pytest_plugins = ["pytest_kfp_local", "helpers.fault_figures"]

# As many test processes as cores: a second thread of each would only wait for its turn, and a step would take twice as
# long. PyTorch and what the tests start take it from here.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

#: A training of the tiny model in seconds, by the contract's names.
TINY_TRAINING = {
    "training_effective_batch_size": 8,
    "training_max_tokens_per_gpu": 1024,
    "training_max_seq_len": 256,
    "training_learning_rate": 1e-3,
    "training_num_epochs": 2,
}


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """What a test leaves in this process must not reach the next one: the command sets variables for the stages that it
    starts, and a library's log writes to a captured stream, which is closed with the test."""
    variables, handlers = dict(os.environ), list(logging.root.handlers)
    yield
    os.environ.clear()
    os.environ |= variables
    for handler in [handler for handler in logging.root.handlers if handler not in handlers]:
        logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Qwen2 with tied embeddings and a ChatML tokenizer."""
    from kfp_osft.shared.model.torchvision import hide_broken_torchvision

    hide_broken_torchvision()
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def chat_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON Lines file of 32 conversations."""
    return write_chat_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, built from a copy of what is committed: setuptools leaves a build folder in the source."""
    folder = tmp_path_factory.mktemp("wheel")
    run("git", "clone", "--quiet", Path(__file__).parent.parent, folder / "source", cwd=folder)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, folder / "source", cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture
def kfp_local(kfp_local: KfpLocal, monkeypatch: pytest.MonkeyPatch) -> KfpLocal:
    """The plugin's: runs one component or pipeline; launch_trainjob trains on this computer."""
    monkeypatch.setenv("OSFT_LAUNCHER", "local")
    return kfp_local


@pytest.fixture
def errors_of(kfp_local: KfpLocal) -> Callable[..., list[str]]:
    """Runs a stage that must fail, and returns the lines of its error as a person reads them."""

    def run(stage: Callable, **arguments: object) -> list[str]:
        result = kfp_local.run(stage, check=False, **arguments)
        assert result.state == "FAILURE"
        assert "Traceback" not in result.log
        return [line.removeprefix("Error: ") for line in result.log.splitlines() if line.startswith("Error: ")]

    return run


@pytest.fixture
def users_kfp_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """kfp.local as a user sets it up, in this environment; returns the folder of its artifacts."""
    from kfp import local

    monkeypatch.setattr(local.config.LocalExecutionConfig, "instance", None)
    # kfp.local's parallel loops leave their own print behind; this puts the real one back after the test.
    monkeypatch.setattr(builtins, "print", print)
    monkeypatch.setenv("OSFT_LAUNCHER", "local")
    # KFP leaves its stages' programs in the temporary folder.
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    warnings.filterwarnings("ignore", module=r"kfp\.local")
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 store with the bucket models."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.put("models", "other/file", b"x")
        yield server


@pytest.fixture
def store(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The store, whose address and credentials are in the environment."""
    s3_server.be_known(monkeypatch)
    return s3_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The plugin's own tests start pytest in pytest: half a minute.
        if "pytest_kfp_local" in item.path.parts:
            item.add_marker(pytest.mark.slow)
    # Files with slow tests begin, so that no process is left alone with one at the end.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes stay out of a test's name: gzip's hold the time, and xdist's workers would collect different tests."""
    return argname if isinstance(val, bytes) else None
