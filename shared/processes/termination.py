"""SIGTERM as an exception, so that what must be cleaned up is: Kubernetes ends a pod with it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(SystemExit):
    """The process was asked to end; its exit code is what a shell gives for SIGTERM.

    Attributes:
        came: whether there has been one in this process.
    """

    came = False

    def __init__(self) -> None:
        Terminated.came = True
        super().__init__(128 + signal.SIGTERM)


class Termination:
    """See terminable()."""

    def __init__(self) -> None:
        self._held = False
        self._pending: BaseException | None = None

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """For what must not be left half done: SIGTERM and Ctrl-C come through when the block has ended."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending:
            raise self._pending

    def _come(self, number: int, frame: object) -> None:
        # A second SIGTERM does not disturb the cleaning up after the first; a second Ctrl-C does.
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if not self._held:
            raise error
        self._pending = error


@contextmanager
def terminable() -> Iterator[Termination]:
    """While the block runs, SIGTERM raises Terminated in it, and Ctrl-C KeyboardInterrupt."""
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set handlers.
        yield termination
        return
    earlier = {number: signal.signal(number, termination._come) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield termination
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
