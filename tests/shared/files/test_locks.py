import errno
import fcntl
import multiprocessing
from pathlib import Path

import pytest

from kfp_osft.shared.files.locks import LocksUnsupported, lock_file


def _try(path: Path, answer) -> None:
    answer.put(lock_file(path, wait=False) is not None)


def _locked_elsewhere(path: Path) -> bool:
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    process = context.Process(target=_try, args=(path, answer))
    process.start()
    process.join()
    return answer.get()


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path):
    lock = lock_file(tmp_path / "lock", wait=False)
    assert lock is not None and not _locked_elsewhere(tmp_path / "lock")

    lock.release()
    assert _locked_elsewhere(tmp_path / "lock")


def test_a_lock_of_a_process_that_ended_is_free(tmp_path: Path):
    assert _locked_elsewhere(tmp_path / "lock")

    lock = lock_file(tmp_path / "lock", wait=True)
    assert lock is not None
    lock.release()


def test_a_file_system_without_locks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(LocksUnsupported):
        lock_file(tmp_path / "lock", wait=False)
