"""The launcher's sign of life in the workspace, which tells a training that it is followed (train_attendance.py)."""

import contextlib
import threading
import time
from pathlib import Path

SIGN_FILE = "launcher_alive"
# A launcher counts as alive if its sign is at most this many intervals old.
_FRESH = 3


class SignOfLife:
    """Writes the sign regularly while the context is entered, and notices whether another launcher does.

    In a thread of its own, so that a volume that hangs blocks nothing else.

    Args:
        file: in a folder that the training pods mount.
        name: unique to this launcher.
        seconds: between two signs.
    """

    def __init__(self, file: Path, name: str, seconds: float) -> None:
        self._file, self._name, self._seconds = file, name, seconds
        self._count = 0
        self._other_seen = float("-inf")
        self._ended = threading.Event()

    def __enter__(self) -> "SignOfLife":
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # The first sign is written before anybody checks it. Its age is measured by the file server's clock, which may
        # differ from this computer's.
        earlier = self._time()
        self._write()
        written = self._time()
        if earlier is not None and written is not None and written - earlier < _FRESH * self._seconds:
            self._other_seen = time.monotonic()
        threading.Thread(target=self._repeat, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Removes the sign, so that the next launcher does not take this one to be alive."""
        self._ended.set()
        with contextlib.suppress(OSError):
            if self._is_own(self._file.read_text(encoding="utf-8")):
                self._file.unlink()

    @property
    def other_is_alive(self) -> bool:
        """Whether another launcher has written its sign recently."""
        return time.monotonic() - self._other_seen < _FRESH * self._seconds

    def _repeat(self) -> None:
        while not self._ended.wait(self._seconds):
            with contextlib.suppress(OSError):
                sign = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
                if sign and not self._is_own(sign):
                    self._other_seen = time.monotonic()
                if not self._ended.is_set():
                    self._write()

    def _write(self) -> None:
        self._count += 1
        self._file.write_text(f"{self._name} {self._count}", encoding="utf-8")

    def _is_own(self, sign: str) -> bool:
        return sign.startswith(f"{self._name} ")

    def _time(self) -> float | None:
        try:
            return self._file.stat().st_mtime
        except FileNotFoundError:
            return None
