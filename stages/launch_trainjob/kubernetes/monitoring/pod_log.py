"""Follows the log of a TrainJob's node 0 from its start, through cut connections and restarts, each line once."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from kfp_osft.stages.launch_trainjob.kubernetes.client import Cluster
from kfp_osft.stages.launch_trainjob.kubernetes.errors import Forbidden, NotFound, Refused, Unavailable
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import NODE

# Clocks of nodes differ; lines that were read already are skipped by their timestamps.
_OVERLAP_SECONDS = 60
# Longer lines are cut, so that they do not fill the memory.
LONGEST_LINE = 1_000_000
_CUT = b" ... [cut]"
# RFC 3339 with up to nanoseconds, of which Python's datetime reads microseconds.
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


class PodLog:
    """Reads in a thread of its own, from the pod last passed to read_from.

    Args:
        cluster: where the pod is.
        on_line: called with each line in order, without its timestamp and newline.
        on_trouble: called once, with a sentence, when the log cannot be read.
        on_end: called when a followed log ends, which is when its container does.
        seconds_between: pause between two reads.
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
        self._trouble_reported = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def read_from(self, pod: str, restarts: int) -> None:
        """Sets which pod is node 0, and how often its container was restarted; may be called at any time."""
        self._pod, self._restarts = pod, restarts
        if self._thread is None:
            thread = threading.Thread(target=self._run, daemon=True)
            # An interruption may come between any two lines, and end() must not join a thread that has not started.
            thread.start()
            self._thread = thread

    def end(self, timeout_seconds: float) -> None:
        """Reads the rest of the log, and ends; gives up after the timeout."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            self._read_all()
        except Exception as error:  # of any kind: the training continues without its log, which must be reported
            self._report(f"{type(error).__name__}: {error}")

    def _read_all(self) -> None:
        pod, restarts = self._pod, self._restarts
        while not self._ended.is_set():
            if self._pod == pod and self._restarts > restarts:
                # The previous container may have written more than was read.
                self._read(pod, previous=True)
            elif self._pod != pod:
                # The previous pod may still exist. The new one may be on a node with another clock.
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
                    # Lines are in order: of those with the last timestamp, skip as many as were read.
                    seen_again += _order(time_) == _order(resumed_at)
                    if _order(time_) < _order(resumed_at) or seen_again <= read_then:
                        continue
                self._count(time_)
                self._on_line(text)
        except (Refused, NotFound, Unavailable):
            # Not started yet, gone, or cut off: the next read continues where this one ended, with the whole of a line
            # that was cut.
            return
        except Forbidden as error:
            self._report(str(error))

    def _report(self, problem: str) -> None:
        if not self._trouble_reported:
            self._trouble_reported = True
            self._on_trouble(problem)

    def _count(self, time_: str) -> None:
        if time_ == self._last_time:
            self._lines_at_last_time += 1
        else:
            self._last_time, self._lines_at_last_time = time_, 1


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The complete lines, without their newline, cut at LONGEST_LINE."""
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
    """Text that sorts in the order of the times of one pod."""
    seconds, fraction, _ = _parts(timestamp)
    return f"{seconds}.{fraction}"


def _seconds_since(timestamp: str) -> float:
    seconds, fraction, offset = _parts(timestamp)
    try:
        then = datetime.fromisoformat(f"{seconds}.{fraction[:6]}{offset.replace('Z', '+00:00')}")
    except ValueError:
        return 0
    return (datetime.now(UTC) - then).total_seconds()
