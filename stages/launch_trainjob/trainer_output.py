"""What a person wants to see of the training's output, and why a training failed."""

import collections
import re
import signal
import time
import unicodedata
from pathlib import Path

from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.training.steps import TrainingStep
from kfp_osft.stages.launch_trainjob.train_end import SAY


class TrainerOutput:
    """Reads the training script's output line by line: what of it a person wants to see, and why it failed.

    mini-trainer prints some 25 lines of coloured JSON and a progress bar for each optimizer step, and much
    about its own setup. Of this come through: one line a step, warnings and errors, the data's size, saved
    checkpoints, and what the training script says itself. Of quick steps one a second comes through.
    """

    _COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
    _PROGRESS_BAR = re.compile(r"\d%\||\[\d\d:\d\d[<,]|^Epoch \d+: .*tok/s$")
    _JSON_FIELD = re.compile(r'^"(\w+)"\s*:\s*(.*?),?$')
    _RANK = re.compile(r"^\[rank(\d+)\]: ?")
    # torchrun's own report, after the traceback of the worker that failed.
    _WORKER_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\)")
    _WORTH_READING = re.compile(
        r"warn|error|exception|fail|removed \d+ samples|saved model|dataset split|batches/epoch"
        r"|loading base model|computing distributed svd",
        re.IGNORECASE,
    )
    # Warnings for programmers, torch's internal log lines, the marks below a line of a traceback, and that a model is
    # saved in the type that it had.
    _NOT_WORTH_READING = re.compile(
        r"FutureWarning|DeprecationWarning|^\[?[EWI]\d{4} |^[~^]+$|Found tensor \S+ with dtype \S+ casting"
    )

    def __init__(self, num_epochs: int, seconds_between_steps: float = 1.0) -> None:
        """Begins to read.

        Args:
            num_epochs: the training's, from which the total number of steps follows.
            seconds_between_steps: a step that comes earlier after the last one that was told is left out; the
                first and the last one never are.
        """
        self._num_epochs = num_epochs
        self._seconds_between_steps = seconds_between_steps
        self._told_at = float("-inf")
        self._fields: dict = {}
        self._step_seconds: collections.deque[float] = collections.deque(maxlen=20)
        self._recent: collections.deque[str] = collections.deque(maxlen=2000)
        self._in_traceback = False
        self._worker_exit_code: int | None = None

    def read(self, raw: str) -> str | None:
        """One line of output as a readable line; None for the many that are noise."""
        line = self._plain(raw)
        text = line.strip()
        if not text or self._PROGRESS_BAR.search(text) or not re.search(r"\w|[{}]", text):
            return None
        if text == "{":
            self._fields = {}
            return None
        if text == "}":
            return self._step_line()
        if field := self._JSON_FIELD.match(text):
            self._fields[field[1]] = field[2]
            return None
        self._recent.append(line)
        if failed := self._WORKER_FAILED.search(text):
            self._worker_exit_code = self._worker_exit_code or int(failed[1])
        if self._worker_exit_code is not None:
            return None
        return self._worth_reading(self._RANK.sub("", line))

    def describe_failure(self, exit_code: int, log_path: Path) -> str:
        """Why a training failed, for a person: exit code, the last lines that matter, where the log is."""
        lines = [f"The training process ended with {_exit_name(exit_code)}."]
        if self._worker_exit_code is not None and self._worker_exit_code < 0:
            lines.append(f"A process of torchrun's ended with {_exit_name(self._worker_exit_code)}.")
        if -signal.SIGKILL in (exit_code, self._worker_exit_code):
            lines.append("Usually that is the system's answer to a process that wants too much memory.")
        lines += ["Its last lines:", *(f"  {line}" for line in self.last_words())]
        return "\n".join([*lines, f"The whole output: {log_path}"])

    def last_words(self, count: int = 20) -> list[str]:
        """The last lines that matter: the end of the first failing worker's traceback, no torchrun report."""
        lines = []
        for line in self._recent:
            if self._WORKER_FAILED.search(line):
                break
            lines.append(line)
        if lines and lines[-1].startswith(SAY):
            return [lines[-1].removeprefix(SAY)]
        starts = [i for i, line in enumerate(lines) if "Traceback (most recent call last)" in line]
        if starts and (rank := self._RANK.match(lines[starts[0]])):
            # Workers fail together and write at the same time: follow the first.
            lines = [line.removeprefix(rank[0]) for line in lines[starts[0] :] if line.startswith(rank[0])]
        return [line for line in lines if not self._NOT_WORTH_READING.search(line.strip())][-count:]

    def _plain(self, raw: str) -> str:
        """Without colours, pictures and what a carriage return has overwritten."""
        line = self._COLOUR.sub("", raw.rstrip("\r\n").rsplit("\r", 1)[-1]).rstrip()
        pictures = {char for char in line if unicodedata.category(char) == "So"}
        if pictures:
            line = "".join(char for char in line if char not in pictures and char != "\ufe0f").strip()
        return line

    def _worth_reading(self, line: str) -> str | None:
        if line.startswith("Traceback (most recent call last)"):
            self._in_traceback = True
            return None
        if self._in_traceback:
            # Frames are indented; the line after them names the exception.
            self._in_traceback = line.startswith(" ")
            return None if self._in_traceback else line
        if line.startswith(SAY):
            return line.removeprefix(SAY)
        if self._WORTH_READING.search(line) and not self._NOT_WORTH_READING.search(line.strip()):
            return line.strip()
        return None

    def _step_line(self) -> str | None:
        try:
            step, epoch = int(self._fields["step"]), int(self._fields["epoch"])
            total = int(self._fields["steps_per_epoch"]) * self._num_epochs
            loss, learning_rate = float(self._fields["loss"]), float(self._fields["lr"])
            tokens_per_second = float(self._fields["tokens_per_second"])
            seconds = float(self._fields["time_per_batch"])
        except (KeyError, ValueError):  # other JSON, such as the parameters
            return None
        # The first step pays for the start: it counts only until there is another.
        if step == 2:
            self._step_seconds.clear()
        self._step_seconds.append(seconds)
        now = time.monotonic()
        if step < total and now - self._told_at < self._seconds_between_steps:
            return None
        self._told_at = now
        left = (total - step) * sum(self._step_seconds) / len(self._step_seconds)
        return str(
            TrainingStep(
                step,
                total,
                epoch + 1,
                loss,
                learning_rate,
                tokens_per_second,
                duration_text(round(left) if left >= 1 else 0),
            )
        )


def _exit_name(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
