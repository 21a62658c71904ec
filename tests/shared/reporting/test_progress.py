import threading

import pytest

from kfp_osft.shared.reporting import progress
from kfp_osft.shared.reporting.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (4000, "Read: 640 of 4,000 rows, 64 rows/s, 52 s left"),
        (40_000, "Read: 640 of 40,000 rows, 64 rows/s, 10 min 15 s left"),
        (None, "Read: 640 rows, 64 rows/s"),
        (0, "Read: 640 rows, 64 rows/s"),
        # More than were counted: then the count was wrong, and so would be the time.
        (500, "Read: 640 rows, 64 rows/s"),
    ],
)
def test_the_rate_and_the_time_left_are_logged(clock, capsys: pytest.CaptureFixture[str], total: int | None, line: str):
    rows = Progress("Read", total, "rows")
    clock[0] = 10
    rows.add(640)

    assert capsys.readouterr().out.splitlines() == [line]


def test_a_line_comes_every_ten_seconds(clock, capsys: pytest.CaptureFixture[str]):
    download = Progress("rows.jsonl", 100 << 20, "bytes", done=10 << 20)
    for clock[0] in (4, 11, 12, 22):
        download.add(11 << 20)

    assert capsys.readouterr().out.splitlines() == [
        "rows.jsonl: 32.0 MiB of 100.0 MiB, 2.0 MiB/s, 34 s left",
        "rows.jsonl: 54.0 MiB of 100.0 MiB, 2.0 MiB/s, 23 s left",
    ]


def test_what_is_done_again_gives_no_negative_rate(clock, capsys: pytest.CaptureFixture[str]):
    download = Progress("rows.jsonl", None, "bytes", done=2048)
    clock[0] = 10
    download.add(-1024)

    assert capsys.readouterr().out == "rows.jsonl: 1.0 KiB, 0 bytes/s\n"


def test_threads_add_to_one_amount(clock, capsys: pytest.CaptureFixture[str]):
    rows = Progress("Read", None, "rows")
    threads = [threading.Thread(target=lambda: [rows.add() for _ in range(10_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock[0] = 10
    rows.add()

    assert capsys.readouterr().out == "Read: 40,001 rows, 4,000 rows/s\n"
