"""The readable part of the training's output, and why a training failed."""

import collections
import re
import signal
import time
import unicodedata
from pathlib import Path

from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.training.health import HealthWatch
from kfp_osft.shared.training.steps import TrainingStep
from kfp_osft.stages.launch_trainjob.train_end import SAY


class TrainerOutput:
    """Reads the training script's output line by line, and picks what is worth reading and why it failed.

    mini-trainer prints some 25 lines of coloured JSON and a progress bar for each optimizer step, and much
    about its own setup. Kept are: one line per step, at most one a second, warnings and errors, the size of the data,
    saved checkpoints, and the training script's own messages.
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
    # mini-trainer says it twice, the second time with all digits.
    _VALIDATION = re.compile(r"^Validation loss: (\d+\.\d{6})$")
    # Warnings for programmers, torch's internal log lines, the markers below a line of a traceback, and the note that a
    # model is saved in its own dtype.
    _NOT_WORTH_READING = re.compile(
        r"FutureWarning|DeprecationWarning|^\[?[EWI]\d{4} |^[~^]+$|Found tensor \S+ with dtype \S+ casting"
    )

    def __init__(self, num_epochs: int, seconds_between_steps: float = 1.0) -> None:
        """Starts with no line read.

        Args:
            num_epochs: of the training, to compute the total number of steps.
            seconds_between_steps: a step that follows the last logged one sooner is left out, except the first and the
                last step.
        """
        self._num_epochs = num_epochs
        self._seconds_between_steps = seconds_between_steps
        self._logged_at = float("-inf")
        self._fields: dict = {}
        self._step_seconds: collections.deque[float] = collections.deque(maxlen=20)
        self._recent: collections.deque[str] = collections.deque(maxlen=2000)
        self._in_traceback = False
        self._worker_exit_code: int | None = None
        self._health = HealthWatch()

    def read(self, raw: str) -> str | None:
        """A line of output in readable form; None if it is noise. A step that shows something wrong gives a line for
        each warning, too."""
        line = self._plain(raw)
        text = line.strip()
        if not text or self._PROGRESS_BAR.search(text) or not re.search(r"\w|[{}]", text):
            return None
        if text == "{":
            self._fields = {}
            return None
        if text == "}":
            return "\n".join(self._step_lines()) or None
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
        """Why a training failed: exit code, the last relevant lines, and where the log is."""
        lines = [f"The training process ended with {_exit_name(exit_code)}."]
        if self._worker_exit_code is not None and self._worker_exit_code < 0:
            lines.append(f"A worker process of torchrun ended with {_exit_name(self._worker_exit_code)}.")
        if -signal.SIGKILL in (exit_code, self._worker_exit_code):
            lines.append("Usually the system kills a process in this way because memory has run out.")
        lines += ["Its last lines:", *(f"  {line}" for line in self.last_words())]
        return "\n".join([*lines, f"Full output: {log_path}"])

    def last_words(self, count: int = 20) -> list[str]:
        """The last relevant lines: the end of the first failing worker's traceback, without torchrun's report."""
        lines = []
        for line in self._recent:
            if self._WORKER_FAILED.search(line):
                break
            lines.append(line)
        if lines and lines[-1].startswith(SAY):
            return [lines[-1].removeprefix(SAY)]
        starts = [i for i, line in enumerate(lines) if "Traceback (most recent call last)" in line]
        if starts and (rank := self._RANK.match(lines[starts[0]])):
            # Workers fail together and their output interleaves: keep the first one's.
            lines = [line.removeprefix(rank[0]) for line in lines[starts[0] :] if line.startswith(rank[0])]
        return [line for line in lines if not self._NOT_WORTH_READING.search(line.strip())][-count:]

    def _plain(self, raw: str) -> str:
        """The line without colours, emoji and what a carriage return has overwritten."""
        line = self._COLOUR.sub("", raw.rstrip("\r\n").rsplit("\r", 1)[-1]).rstrip()
        emoji = {char for char in line if unicodedata.category(char) == "So"}
        if emoji:
            line = "".join(char for char in line if char not in emoji and char != "\ufe0f").strip()
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
        if found := self._VALIDATION.match(line.strip()):
            return f"validation loss {float(found[1]):.4f}"
        if self._WORTH_READING.search(line) and not self._NOT_WORTH_READING.search(line.strip()):
            return line.strip()
        return None

    def _step_lines(self) -> list[str]:
        """The step, unless it follows the last one too soon, and what is wrong with it."""
        try:
            step, epoch = int(self._fields["step"]), int(self._fields["epoch"])
            total = int(self._fields["steps_per_epoch"]) * self._num_epochs
            loss, learning_rate = float(self._fields["loss"]), float(self._fields["lr"])
            tokens_per_second = float(self._fields["tokens_per_second"])
            seconds = float(self._fields["time_per_batch"])
        except (KeyError, ValueError):  # other JSON, such as the parameters
            return []
        # The first step includes the startup: it counts only until there is a second.
        if step == 2:
            self._step_seconds.clear()
        self._step_seconds.append(seconds)
        warnings = [f"Warning: {problem}" for problem in self._health.took(step, loss, self._gradient_norm())]
        now = time.monotonic()
        if step < total and now - self._logged_at < self._seconds_between_steps and not warnings:
            return []
        self._logged_at = now
        left = (total - step) * sum(self._step_seconds) / len(self._step_seconds)
        shown = duration_text(round(left) if left >= 1 else 0)
        return [str(TrainingStep(step, total, epoch + 1, loss, learning_rate, tokens_per_second, shown)), *warnings]

    def _gradient_norm(self) -> float | None:
        try:
            return float(self._fields["grad_norm"])
        except (KeyError, ValueError):
            return None


def _exit_name(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
