"""How far a long run over rows is."""

import time
from pathlib import Path

from kfp_osft.shared.reporting.log import log

_SECONDS_BETWEEN_LINES = 10


class Progress:
    """Tells every ten seconds how many rows are done, how many a second, and the time left.

    Args:
        total: how many there will be; None where that would cost a pass over the data.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._done = 0
        self._started = self._told = time.monotonic()

    def advance(self) -> None:
        """Counts one row."""
        self._done += 1
        # A look at the clock costs as much as some of the work on a row.
        if self._done % 256 or (now := time.monotonic()) - self._told < _SECONDS_BETWEEN_LINES:
            return
        self._told = now
        log(self.line(now - self._started))

    def line(self, seconds: float) -> str:
        """The line after so many seconds, as "51,200 of 200,000 rows, 4,800 rows/s, 31 s left"."""
        rate = self._done / seconds
        if not self._total or self._done > self._total:
            return f"{self._done:,} rows, {rate:,.0f} rows/s"
        left = (self._total - self._done) / rate
        return f"{self._done:,} of {self._total:,} rows, {rate:,.0f} rows/s, {left:,.0f} s left"


def rows_in(files: list[Path]) -> int | None:
    """Counts rows where that is cheap: lines of JSON Lines files, the footers of Parquet files; else None."""
    total = 0
    for file in files:
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            with file.open("rb") as opened:
                while piece := opened.read(1 << 20):
                    total += piece.count(b"\n")
        elif file.suffix.lower() == ".parquet":
            import pyarrow
            from pyarrow.parquet import ParquetFile

            try:
                with ParquetFile(file) as parquet:
                    total += parquet.metadata.num_rows
            except (pyarrow.ArrowException, OSError):
                return None
        else:
            return None
    return total
