"""Part of the training script: a training that nobody follows saves its state and ends, and gives its GPUs back.

The launcher writes a heartbeat into a file in the workspace. What counts is that the file's content changes, by
this process's own clock: the clocks of nodes and of file servers differ.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kfp_osft.stages.launch_trainjob.train_end import SAY, UNATTENDED, end

#: mini-trainer waits up to 300 s for its workers to save, and twice 60 s for them to end.
_SAVING_SECONDS = 600


class Attendance:
    """Watches the heartbeat in a thread of its own.

    Args:
        file: that the launcher writes; empty: nothing is watched.
        minutes: how old its last change may become; 0: any age.
        interrupt: asks the training to save its state and end.

    Attributes:
        is_over: the training was asked to end.
    """

    def __init__(self, file: str = "", minutes: float = 0, interrupt: Callable[[], None] | None = None) -> None:
        self.is_over = False
        self._file, self._limit = Path(file or "/dev/null"), minutes * 60 * bool(file)
        # What the heartbeat was when the training ended, for the attempts that the cluster makes all the same.
        self._last_seen = self._file.with_name(f"{self._file.name}.unattended")
        self._interrupt = interrupt or _interrupt

    def start(self) -> None:
        """Begins to watch; ends this process at once where an earlier attempt ended and nobody has come since."""
        sign = self._read()
        if not self._limit:
            return
        if sign and self._stopped_at() == sign:
            end(UNATTENDED, self.sentence)
        threading.Thread(target=self._watch, args=[sign], daemon=True).start()

    @property
    def sentence(self) -> str:
        return (
            f"nobody has followed this training for {self._limit / 60:g} minutes (training_unattended_limit_minutes): "
            "ended; run the pipeline again, and it goes on from the last saved state"
        )

    def _watch(self, sign: str) -> None:
        seen = time.monotonic()
        pause = min(30.0, self._limit / 4)
        while time.monotonic() - seen < self._limit:
            time.sleep(pause)
            # A file that cannot be read, or is gone, is no heartbeat either.
            if (now := self._read()) and now != sign:
                sign, seen = now, time.monotonic()
        self.is_over = True
        print(SAY + self.sentence, flush=True)
        try:
            self._last_seen.write_text(sign, encoding="utf-8")
        except OSError as error:
            print(f"{SAY}{self._last_seen} cannot be written: {error}", flush=True)
        self._interrupt()

    def _read(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8")
        except OSError:
            return ""

    def _stopped_at(self) -> str:
        try:
            return self._last_seen.read_text(encoding="utf-8")
        except OSError:
            return ""


def _interrupt() -> None:
    """SIGTERM to this process, which mini-trainer answers by saving; the end at last where it does not come to one."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SAVING_SECONDS)
    os._exit(UNATTENDED)
