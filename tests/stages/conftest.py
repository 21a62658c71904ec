"""What the tests of several stages need: a workspace, and an S3 store, one for all tests of a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.s3 import S3Server


@pytest.fixture
def pvc(tmp_path: Path) -> Path:
    """A workspace that is not there yet."""
    return tmp_path / "pvc"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def store(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The store, with a data connection to it in the environment."""
    s3_server.be_known(monkeypatch)
    return s3_server
