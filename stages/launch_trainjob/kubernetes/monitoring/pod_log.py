"""Follows the log of a TrainJob's node 0 from its start, through cut connections and restarts, each line once."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from kfp_osft.stages.launch_trainjob.kubernetes.client import Cluster
from kfp_osft.stages.launch_trainjob.kubernetes.errors import Forbidden, NotFound, Refused, Unavailable
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import NODE

# Clocks of nodes differ; lines that were read already are passed over by their timestamps.
_OVERLAP_SECONDS = 60
# A line that is longer is cut: nobody reads it, and it must not fill the memory.
LONGEST_LINE = 1_000_000
_CUT = b" ... [cut]"
# RFC 3339 with up to nanoseconds, of which Python's datetime reads microseconds.
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


class PodLog:
    """Reads in a thread of its own, from the pod that it was told of last.

    Args:
        cluster: where the pod is.
        on_line: is given each line, without its timestamp and line end, in order.
        on_trouble: is given a sentence, once, when the log is not to be had.
        on_end: is called when a log that was followed has ended, which is when its container has.
        seconds_between: reads, after the end of one.
    """

    def __init__(
        self,
        cluster: Cluster,
        on_line: Callable[[str], None],
        on_trouble: Callable[[str], None],
        on_end: Callable[[], None],
        seconds_between: float,
    ) -> None:
        self._cluster = cluster
        self._on_line, self._on_trouble, self._on_end = on_line, on_trouble, on_end
        self._seconds_between = seconds_between
        self._pod = ""
        self._restarts = 0
        self._last_time = ""
        # How many lines with that timestamp were read: several can have the same.
        self._lines_at_last_time = 0
        self._trouble_told = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def read_from(self, pod: str, restarts: int) -> None:
        """Tells which pod is node 0, and how often its container was started again; may be called at any time."""
        self._pod, self._restarts = pod, restarts
        if self._thread is None:
            thread = threading.Thread(target=self._run, daemon=True)
            # An interruption may come between any two lines, and end() joins no thread that has not started.
            thread.start()
            self._thread = thread

    def end(self, timeout_seconds: float) -> None:
        """Reads what is still to be had, and ends; gives up after the timeout."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            self._read_all()
        except Exception as error:  # of any kind: the training goes on, and that its log does not must be said
            self._tell(f"{type(error).__name__}: {error}")

    def _read_all(self) -> None:
        pod, restarts = self._pod, self._restarts
        while not self._ended.is_set():
            if self._pod == pod and self._restarts > restarts:
                # The container that was there before may have said more than was read.
                self._read(pod, previous=True)
            elif self._pod != pod:
                # The pod that was there before may be listed still. Another one may be on a node with another clock.
                self._read(pod)
                self._last_time, self._lines_at_last_time = "", 0
            pod, restarts = self._pod, self._restarts
            self._read(pod, follow=True)
            self._on_end()
            self._ended.wait(self._seconds_between)
        self._read(self._pod)

    def _read(self, pod: str, **options: bool | int) -> None:
        if self._last_time:
            options["since_seconds"] = max(1, round(_seconds_since(self._last_time)) + _OVERLAP_SECONDS)
        resumed_at, read_then, seen_again = self._last_time, self._lines_at_last_time, 0
        try:
            for line in _whole_lines(self._cluster.pod_log(pod, NODE, **options)):
                time_, _, text = line.decode("utf-8", errors="replace").partition(" ")
                if resumed_at and _order(time_) <= _order(resumed_at):
                    # Lines come in order: of those with the last time, pass over as many as were read.
                    seen_again += _order(time_) == _order(resumed_at)
                    if _order(time_) < _order(resumed_at) or seen_again <= read_then:
                        continue
                self._took(time_)
                self._on_line(text)
        except (Refused, NotFound, Unavailable):
            # Not started yet, gone, or cut: the next read goes on where this one ended. A line that was cut is read
            # anew.
            return
        except Forbidden as error:
            self._tell(str(error))

    def _tell(self, problem: str) -> None:
        if not self._trouble_told:
            self._trouble_told = True
            self._on_trouble(problem)

    def _took(self, time_: str) -> None:
        if time_ == self._last_time:
            self._lines_at_last_time += 1
        else:
            self._last_time, self._lines_at_last_time = time_, 1


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that have ended, without their newline, cut at LONGEST_LINE."""
    begun: list[bytes] = []
    size = 0
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for part in ended:
            if size:
                part = b"".join([*begun, part[: max(0, LONGEST_LINE - size)]]) + (
                    _CUT if size + len(part) > LONGEST_LINE else b""
                )
                begun, size = [], 0
            yield part
        if rest:
            if size < LONGEST_LINE:
                begun.append(rest[: LONGEST_LINE - size])
            size += len(rest)


def _parts(timestamp: str) -> tuple[str, str, str]:
    """Seconds, nine digits of their fraction (the kubelet may leave out zeros at its end), and the offset."""
    match = _TIMESTAMP.fullmatch(timestamp)
    return (match[1], (match[2] or "").ljust(9, "0"), match[3]) if match else (timestamp, "", "")


def _order(timestamp: str) -> str:
    """Text that sorts as the times of one pod do."""
    seconds, fraction, _ = _parts(timestamp)
    return f"{seconds}.{fraction}"


def _seconds_since(timestamp: str) -> float:
    seconds, fraction, offset = _parts(timestamp)
    try:
        then = datetime.fromisoformat(f"{seconds}.{fraction[:6]}{offset.replace('Z', '+00:00')}")
    except ValueError:
        return 0
    return (datetime.now(UTC) - then).total_seconds()
