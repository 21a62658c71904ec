"""Pauses between tries.

Not tenacity: not every image of the stages has it, and it has no count that starts again when a try got further.
"""


class Backoff:
    """Counts the tries of one piece of work; each pause is twice as long as the one before."""

    def __init__(self, tries: int, first_pause: float, longest_pause: float = 30.0) -> None:
        """tries: in a row, the first included; pauses in seconds."""
        self.tries = tries
        self._first_pause, self._longest_pause = first_pause, longest_pause
        self._failures = 0

    def pause(self, got_further: bool = False, wanted: float = 0.0) -> float | None:
        """The seconds to wait after a failed try; None where it was the last one.

        Args:
            got_further: the try achieved something: the count starts again.
            wanted: seconds that the server asks for (Retry-After); at most the longest pause is granted.
        """
        self._failures = 1 if got_further else self._failures + 1
        if self._failures >= self.tries:
            return None
        return min(max(self._first_pause * 2 ** (self._failures - 1), wanted), self._longest_pause)
