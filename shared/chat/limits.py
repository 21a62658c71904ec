"""Limits of time, memory and size for a chat template, which is a program that somebody else wrote.

They are set for many rows at once: a row costs no more than without them.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.sizes import size_text

#: CPU time of some 256 rows, of which templates use less than a second.
SECONDS = 60.0
#: What a template may take beside what the process has.
BYTES = 2 << 30
#: Characters of one rendered row.
CHARACTERS = 64 << 20
# Digits of 2, of a number that a template computes: Python works for hours on longer ones, and cannot be interrupted.
_BITS = 1 << 16


class LimitReached(BaseException):
    """A template ran into a limit. No Exception: code that makes do with a template's errors must not go on."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Inside the block templates may use SECONDS of CPU time and BYTES of memory, as far as the system can tell.

    Raises:
        LimitReached: naming the limit.
    """
    with _limited_memory():
        try:
            with _limited_time():
                yield
        except MemoryError:
            raise LimitReached(f"needs more than {size_text(BYTES)} of memory") from None


def guard_numbers(environment: Any) -> None:
    """Makes a sandboxed Jinja environment refuse products and powers of which a short formula makes gigabytes."""
    call = environment.call_binop

    def call_binop(context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            factor = abs(right) if operator == "**" else 1
            if max(left.bit_length(), right.bit_length() * (operator != "**")) * factor > _BITS:
                raise OverflowError(f"a number of more than {_BITS:,} bits")
        return call(context, operator, left, right)

    environment.intercepted_binops = frozenset(("*", "**"))
    environment.call_binop = call_binop


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread gets signals.
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise LimitReached(f"takes longer than {SECONDS:g} s of CPU time")

    earlier = signal.signal(signal.SIGVTALRM, stop)
    # Again and again: what is raised inside a destructor or a callback is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, earlier)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    used = _data_bytes()
    if used is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + BYTES
    if soft != resource.RLIM_INFINITY and soft <= limit:
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int | None:
    """This process's data segment and private memory, which RLIMIT_DATA limits; None where nothing says it."""
    try:
        fields = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("VmData:")
        return int(fields[1].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        return None
