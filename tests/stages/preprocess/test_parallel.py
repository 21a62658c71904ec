import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kfp_osft.stages.preprocess import parallel


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_the_pieces(processes: int):
    def work(piece: int) -> tuple[int, bytes]:
        time.sleep(0.02 * (piece % 3))
        return piece, bytes(200_000)

    results = [piece for piece, _ in parallel.in_order(range(20), work, processes)]

    assert results == list(range(20))


def test_pieces_and_results_that_fill_the_pipes_do_not_stop_each_other():
    pieces = [bytes([number]) * 3_000_000 for number in range(12)]

    assert list(parallel.in_order(pieces, lambda piece: piece, 2)) == pieces


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised_in_place_of_its_piece_and_no_process_remains(processes: int):
    def work(piece: int) -> int:
        if piece == 5:
            raise ValueError("the fifth")
        return piece

    results: list[int] = []
    children = psutil.Process().children()
    with pytest.raises(ValueError, match="the fifth"):
        results.extend(parallel.in_order(range(9), work, processes))

    assert results == list(range(5))
    assert psutil.Process().children() == children


def test_an_error_of_the_pieces_is_raised_after_the_results_before_it():
    def pieces() -> Iterator[int]:
        yield from range(3)
        raise OSError("cut")

    results: list[int] = []
    with pytest.raises(OSError, match="cut"):
        results.extend(parallel.in_order(pieces(), lambda piece: piece, 2))

    assert results == [0, 1, 2]


def test_a_killed_process_is_reported():
    def work(piece: int) -> None:
        if piece == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="it may have run out of memory"):
        list(parallel.in_order(range(9), work, 2))


def test_processes_end_when_their_parent_is_killed(tmp_path: Path):
    program = f"""
import os, time
from pathlib import Path
from kfp_osft.stages.preprocess.parallel import in_order
def work(piece):
    Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(600)
list(in_order(range(9), work, 2))
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = [int(file.name) for file in tmp_path.iterdir()]
    assert len(pids) == 2

    parent.kill()
    parent.wait()

    while any(map(_lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_lives, pids))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("limits", "cores"),
    [({}, 8), ({"cpu.max": "250000 100000"}, 3), ({"cpu.max": "max 100000"}, 8), ({"cpu.max": "50000 100000"}, 1)],
)
def test_a_containers_cpu_limit_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict, cores: int):
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(parallel, "_cgroup_folders", lambda: [tmp_path])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    assert parallel.usable_cores() == cores
