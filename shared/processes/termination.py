"""SIGTERM as an exception, so that what must be cleaned up is: Kubernetes ends a pod with it."""

import signal
import socket
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


@contextmanager
def terminable() -> Iterator[None]:
    """While the block runs, SIGTERM raises Terminated in it, and Ctrl-C KeyboardInterrupt; also in a system call that
    waits.

    A second SIGTERM does not disturb the cleaning up after the first; a second Ctrl-C does.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set handlers.
        yield
        return
    handled = threading.Event()

    def terminate(number: int, frame: object) -> None:
        handled.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handlers = {signal.SIGTERM: terminate, signal.SIGINT: interrupt}
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    earlier_wakes = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_insist, args=[woken, handled, threading.get_ident()], daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier_wakes)
        wakes.close()
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _insist(woken: socket.socket, handled: threading.Event, main_thread: int) -> None:
    """Repeats a SIGTERM until the main thread has handled it: one that comes just before a system call that waits would
    be handled after it only. Ends with the socket at the other end."""
    with woken:
        while numbers := woken.recv(64):
            while signal.SIGTERM in numbers and not handled.wait(0.05):
                signal.pthread_kill(main_thread, signal.SIGTERM)
