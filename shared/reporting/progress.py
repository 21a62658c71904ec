"""How far a long piece of work is: a download, the rows of a dataset."""

import threading
import time
from typing import Literal

from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.sizes import size_text

_SECONDS_BETWEEN_LINES = 10


class Progress:
    """Logs every ten seconds the amount done, the rate and the time left, as
    "Tokenized: 51,200 of 200,000 rows, 4,800 rows/s, 31 s left" or
    "rows.jsonl: 32.0 MiB of 100.0 MiB, 2.0 MiB/s, 34 s left".
    """

    def __init__(self, what: str, total: int | None, unit: Literal["rows", "bytes"], done: int = 0) -> None:
        """Starts the clock.

        Args:
            what: how each line begins.
            total: the amount of the whole; None where it is not known.
            unit: of all amounts.
            done: what an earlier run left behind; it is not part of the rate.
        """
        self._what, self._total, self._unit, self._done, self._begin = what, total, unit, done, done
        self._started = self._logged = time.monotonic()
        self._lock = threading.Lock()

    def add(self, amount: int = 1) -> None:
        """Counts so much more as done, negative where a part is done again; may be called from several threads."""
        with self._lock:
            self._done += amount
            now = time.monotonic()
            if now - self._logged >= _SECONDS_BETWEEN_LINES:
                self._logged = now
                log(self._line(now - self._started))

    def _line(self, seconds: float) -> str:
        rate = max(self._done - self._begin, 0) / seconds
        done, of_all, left = self._done, "", ""
        # Where more is done than there was, the total was wrong, and so would be the time.
        if self._total and done <= self._total:
            left = f", {duration_text(round((self._total - done) / rate))} left" if rate else ""
            of_all = f" of {self._total:,}" if self._unit == "rows" else f" of {size_text(self._total)}"
        if self._unit == "rows":
            return f"{self._what}: {done:,}{of_all} rows, {rate:,.0f} rows/s{left}"
        return f"{self._what}: {size_text(done)}{of_all}, {size_text(rate)}/s{left}"
