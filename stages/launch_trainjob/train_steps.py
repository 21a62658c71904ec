"""The part of the training script that follows the steps which mini-trainer writes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class NewSteps:
    """The steps that a training adds to its metrics file, each once.

    Args:
        metrics_file: that mini-trainer appends a line of JSON to, a step.
        read_from: bytes of it that an earlier training wrote.
    """

    def __init__(self, metrics_file: Path, read_from: int) -> None:
        self._file, self._offset = metrics_file, read_from

    def read(self) -> Iterator[dict[str, Any]]:
        """Those since the last call."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return
        # The last line may be half written.
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                step = json.loads(line)
            except ValueError:
                continue
            if isinstance(step, dict) and isinstance(step.get("step"), int | float):
                yield step
