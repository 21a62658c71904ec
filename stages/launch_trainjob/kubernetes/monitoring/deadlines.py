"""The deadlines of a TrainJob: for the queue, the start and the training."""

import time
from collections.abc import Callable
from typing import Any

from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.state import PAUSED, QUEUED, RUNNING, STARTING
from kfp_osft.stages.launch_trainjob.kubernetes.timing import Timing

_MINUTE = 60


class Deadlines:
    """Measures how long a TrainJob has been in its phases, against the parameters' limits.

    Args:
        trainjob: of the training config.
        timing: for problems that rarely resolve by themselves.
        now: seconds of a monotonic clock.
    """

    def __init__(self, trainjob: dict[str, Any], timing: Timing, now: Callable[[], float] = time.monotonic) -> None:
        self._trainjob, self._trouble_limit, self._now = trainjob, timing.trouble, now
        self._phase = ""
        self._phase_since = self._checked = now()
        self._trained = 0.0
        self._trouble_since: float | None = None

    def overrun(self, phase: str, sentence: str, in_trouble: bool) -> str:
        """What has taken too long, as the predicate of a sentence; empty if nothing has."""
        now = self._now()
        if self._phase == phase == RUNNING:
            # Time in a queue, after a preemption, does not count as training.
            self._trained += now - self._checked
        if phase != self._phase:
            self._phase, self._phase_since = phase, now
        self._checked = now
        self._trouble_since = (self._trouble_since or now) if in_trouble else None
        lasts = (now - self._phase_since) / _MINUTE
        start, queue, training = (
            self._trainjob[name] for name in ("start_deadline_minutes", "queue_limit_minutes", "time_limit_minutes")
        )
        if self._trouble_since is not None and now - self._trouble_since > self._trouble_limit:
            return f"cannot start. {sentence}"
        if phase == STARTING and lasts > start:
            return f"has not started within training_start_deadline_minutes={start}. {sentence}"
        if queue and phase in (QUEUED, PAUSED) and lasts > queue:
            return f"has waited longer than training_queue_limit_minutes={queue}. {sentence}"
        if training and self._trained / _MINUTE > training:
            return f"has trained longer than training_time_limit_minutes={training}"
        return ""
