"""A real pseudo-terminal with a program on it, and the screen that a person sees."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence

import pyte


class Terminal:
    """Starts a program on a terminal of a size; `screen` follows what it writes.

    Args:
        command: the program with its arguments.
        columns, rows: the terminal's size.
        env: environment variables of the program, beside this process's.

    Attributes:
        written: all bytes that the program wrote.
        exit_code: of the program, once it ended.
    """

    def __init__(self, command: Sequence[str], columns: int = 80, rows: int = 24, env: Mapping[str, str] = {}) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""
        self.exit_code: int | None = None
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        }
        environment |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **env}
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            # As a person's shell has it; a test run in the background ignores Ctrl-C, and its children with it.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execvpe(command[0], list(command), environment)

    @property
    def lines(self) -> list[str]:
        """The screen's lines without the empty ones at its end."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def cursor_is_shown(self) -> bool:
        return not self._screen.cursor.hidden

    def type(self, keys: bytes) -> None:
        os.write(self._file, keys)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(rows, columns)

    def wait(self, until: Callable[[], bool] | None = None, seconds: float = 60) -> None:
        """Reads until `until` is true, or, without it, until the program has ended.

        Raises:
            TimeoutError: with the screen, when that does not happen in time.
        """
        end = time.monotonic() + seconds
        while until is None or not until():
            if time.monotonic() > end:
                raise TimeoutError(f"the terminal shows:\n{self.text}")
            if not select.select([self._file], [], [], 0.1)[0]:
                continue
            data = b""
            with contextlib.suppress(OSError):  # Linux's answer where nobody is left on the other side
                data = os.read(self._file, 65536)
            if not data:
                if until is not None:
                    raise TimeoutError(f"the program ended; the terminal shows:\n{self.text}")
                self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
                return
            self.written += data
            self._stream.feed(data)
