"""Output of a local run: the stages and their lines, without KFP's own bookkeeping.

kfp.local prints everything to stdout: its own lines, and those of a stage indented by four spaces. All of it is kept in
a file.
"""

import contextlib
import io
import os
import re
import time
from pathlib import Path
from typing import TextIO

from kfp_osft.pipelines.local.progress import DONE, FAILED, USED_AGAIN, Lines, Live, Progress
from kfp_osft.pipelines.osft.wiring import DISPLAY_NAMES
from kfp_osft.shared.reporting.redaction import shown, unguarded
from kfp_osft.shared.reporting.stage import INPUT_ERROR_PREFIX, STAGE_END, TRAINING_ERROR_PREFIX

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# Whole lines of KFP's logger: a stage's own are indented, whatever they say.
_KFP = r"\d\d:\d\d:\d\d\.\d{3} - [A-Z]+ - "
_BEGINS = re.compile(rf"{_KFP}Executing task '([\w-]+)'")
_ENDS = re.compile(rf"{_KFP}Task '([\w-]+)' finished with status (\w+)")
_STAGE_END = re.compile(rf"{STAGE_END}(complete|failed|stopped) after ")
_INDENT = " " * 4
# By the names of KFP's tasks.
_TITLES = {name.replace("_", "-"): title for name, title in DISPLAY_NAMES.items()}


def without_colors(text: str) -> str:
    """KFP's text without terminal color codes, which it also writes into files and messages."""
    return _COLOR.sub("", text)


class RunLog(io.TextIOBase):
    """A stdout for kfp.local: writes everything to a file, and shows the relevant part on `terminal`.

    Args:
        file: the full log; overwritten.
        terminal: where to show it: as a live view if this is a terminal that supports one, else line by line.
        quiet: shows only when stages begin and end, warnings and errors.
        evaluates: whether evaluate_model is one of the stages.

    Attributes:
        stage_errors: error messages of the stage that failed, without their prefix: what it said last. Rows and the
            trainer's output may say the same words before.
        is_input_error: whether the last one was bad input, not a failed training.
    """

    def __init__(self, file: Path, terminal: TextIO, quiet: bool = False, evaluates: bool = False) -> None:
        self.path = file
        self.stage_errors: list[str] = []
        self.is_input_error = False
        self._file = file.open("w", encoding="utf-8", errors="backslashreplace")
        self._terminal = terminal = unguarded(terminal)
        live = not quiet and terminal.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
        titles = {name: title for name, title in _TITLES.items() if evaluates or name != "evaluate-model"}
        self._progress: Progress = Live(terminal, titles) if live else Lines(terminal, len(titles), quiet)
        self._line = ""
        self._started = 0.0
        self._in_stage = False
        self._in_arguments = False
        self._is_used_again = False
        self._in_errors = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        # KFP prints the arguments of each stage.
        self._file.write(shown(text))
        self._file.flush()
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            self._show(shown(line).rstrip())
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._terminal.flush()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._progress.close()
        super().close()

    def _show(self, line: str) -> None:
        if self._in_stage and line.startswith(_INDENT):
            self._show_stage(line.removeprefix(_INDENT))
        elif begins := _BEGINS.match(line):
            self._started = time.monotonic()
            self._progress.begin(begins[1], _TITLES.get(begins[1], begins[1]))
            self._in_stage, self._is_used_again = True, False
            self.stage_errors, self.is_input_error = [], False
        elif ends := _ENDS.match(line):
            self._in_stage = False
            state = FAILED
            if ends[2] == "SUCCESS":
                state = USED_AGAIN if self._is_used_again else DONE
            self._progress.end(ends[1], state, time.monotonic() - self._started)

    def _show_stage(self, line: str) -> None:
        # KFP's executor prints its arguments as JSON, over many lines up to a brace at the margin.
        if self._in_arguments:
            self._in_arguments = line != "}"
        elif line.startswith("[KFP Executor"):
            self._in_arguments = line.endswith("Got executor_input:")
        # The end of a stage is shown by _show.
        elif line and not _STAGE_END.match(line):
            # How a stage says that it found its own result.
            self._is_used_again |= line.endswith(USED_AGAIN)
            self._progress.show(line)
            self._gather_errors(line)

    def _gather_errors(self, line: str) -> None:
        prefix = next((one for one in (INPUT_ERROR_PREFIX, TRAINING_ERROR_PREFIX) if line.startswith(one)), None)
        if prefix is None:
            self._in_errors = False
            if line.startswith("Traceback (most recent call last)"):
                self.stage_errors, self.is_input_error = [], False
            return
        if not self._in_errors:
            self.stage_errors = []
        self._in_errors = True
        self.stage_errors.append(line.removeprefix(prefix))
        self.is_input_error = prefix == INPUT_ERROR_PREFIX
