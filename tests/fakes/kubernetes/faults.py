"""Faults that a test injects into the API: errors, resets, delays."""

import threading
from dataclasses import dataclass
from typing import Any

from fakes.kubernetes.recorded import Request


@dataclass
class Fault:
    """What happens to the next `times` requests that match `wanted`.

    Attributes:
        status: answer with this error; 0: reset the connection; None: only wait.
        carried_out: the request takes effect first, and only its answer is lost.
        seconds: wait that long before anything else.
        message: of the Status; empty: the usual one.
        page: a proxy answers with a page of its own.
    """

    times: int
    wanted: dict[str, Any]
    status: int | None = None
    retry_after: int | None = None
    carried_out: bool = False
    seconds: float = 0.0
    message: str = ""
    page: bool = False


class Faults:
    """The pending faults, in the order in which they were requested."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._pending.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._pending.clear()

    def next_for(self, request: Request) -> Fault | None:
        """Consumes one use of the first fault that matches the request."""
        with self._lock:
            for fault in self._pending:
                if request.matches(**fault.wanted):
                    fault.times -= 1
                    if not fault.times:
                        self._pending.remove(fault)
                    return fault
        return None
