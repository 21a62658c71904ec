from pathlib import Path

import pytest

from kfp_osft.stages.preprocess import progress
from kfp_osft.stages.preprocess.progress import Progress, rows_in


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (2000, "512 of 2,000 rows, 64 rows/s, 23 s left"),
        (None, "512 rows, 64 rows/s"),
        (0, "512 rows, 64 rows/s"),
        # More than were counted: then the count was wrong, and so would be the time.
        (500, "512 rows, 64 rows/s"),
    ],
)
def test_rows_a_second_and_the_time_left_are_told(total: int | None, line: str):
    bar = Progress(total)
    for _ in range(512):
        bar.advance()

    assert bar.line(8.0) == line


def test_a_line_comes_every_ten_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    bar = Progress(10_000)
    for _ in range(2560):
        now += 1 / 64
        bar.advance()

    assert capsys.readouterr().out.splitlines() == [
        "768 of 10,000 rows, 64 rows/s, 144 s left",
        "1,536 of 10,000 rows, 64 rows/s, 132 s left",
        "2,304 of 10,000 rows, 64 rows/s, 120 s left",
    ]


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["a.jsonl"], 3),
        (["a.jsonl", "b.ndjson", "c.parquet"], 11),
        (["a.jsonl", "d.json"], None),
        (["e.parquet"], None),
    ],
)
def test_rows_are_counted_where_that_is_cheap(tmp_path: Path, names: list[str], rows: int | None):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.jsonl").write_text("{}\n" * 3)
    (tmp_path / "b.ndjson").write_text("{}\n" * 3)
    parquet.write_table(pyarrow.table({"x": range(5)}), tmp_path / "c.parquet")
    (tmp_path / "d.json").write_text("[{}]")
    (tmp_path / "e.parquet").write_text("PAR1")

    assert rows_in([tmp_path / name for name in names]) == rows
