"""How a local run is displayed: a live view on a terminal, line by line elsewhere, or only the stages."""

import contextlib
import re
import textwrap
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, TextIO

from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.stage import INPUT_ERROR_PREFIX, TRAINING_ERROR_PREFIX
from kfp_osft.shared.training.steps import TrainingStep

DONE = "done"
FAILED = "failed"
USED_AGAIN = "used again"
#: How a line begins that a quiet run shows too.
WARNING = "Warning: "
_ERRORS = (INPUT_ERROR_PREFIX, TRAINING_ERROR_PREFIX)
# Lines that say how far something is, each of which takes the place of the one before.
_PASSING = re.compile(r"\bleft( before the first step)?$|, [\d,.]+ \S+/s$")
_COUNTED = re.compile(r"([\d,]+) of ([\d,]+) (?:rows|matrices)\b")
# The figures of collect_metrics, which the summary has too.
_FIGURE = re.compile(r"[a-z_]+ = \S+")
_BARS = "▁▂▃▄▅▆▇█"
# So that all figures fit into 80 columns.
_COURSE_WIDTH = 12


class Progress(Protocol):
    """Displays a run. Stages run one after another; each begins, prints lines, and ends."""

    def begin(self, stage: str, title: str) -> None:
        """A stage begins; its name is KFP's, such as "launch-trainjob"."""

    def show(self, line: str) -> None:
        """A stage printed a line."""

    def end(self, stage: str, state: str, seconds: float) -> None:
        """A stage ended; its state is DONE, USED_AGAIN or FAILED."""

    def close(self) -> None:
        """The run is over, completed or interrupted."""


class Lines:
    """Each line as it comes.

    Args:
        terminal: where to write.
        stages: number of stages of the run.
        quiet: of the stages' lines, prints only warnings and errors.
    """

    def __init__(self, terminal: TextIO, stages: int, quiet: bool = False) -> None:
        self._terminal = terminal
        self._stages = stages
        self._quiet = quiet
        self._begun = 0

    def begin(self, stage: str, title: str) -> None:
        self._begun += 1
        self._write(f"[{self._begun}/{self._stages}] {title}")

    def show(self, line: str) -> None:
        if not self._quiet or line.startswith((WARNING, *_ERRORS)):
            self._write(f"      {line}")

    def end(self, stage: str, state: str, seconds: float) -> None:
        self._write(f"      {state}" + ("" if state == USED_AGAIN else f" after {duration_text(seconds)}"))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._terminal.flush()

    def _write(self, line: str) -> None:
        # Not print: kfp.local replaces it by one that indents while a stage runs. Whoever reads may be gone (`| head`):
        # the run goes on, its log is a file.
        with contextlib.suppress(BrokenPipeError):
            encoding = self._terminal.encoding or "utf-8"
            self._terminal.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
            self._terminal.flush()


class Live:
    """The stages with their states, and how far the running one is, redrawn in place below what the stages print.

    Optimizer steps, the progress of other work and the figures of the metrics pass by in place; all other lines stay
    above, wrapped between words, so that a path can be copied. Colors and width follow the terminal (rich: NO_COLOR,
    COLUMNS).

    Args:
        terminal: a terminal.
        titles: titles of the stages by name, in the order in which they run.
    """

    def __init__(self, terminal: TextIO, titles: dict[str, str]) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._titles = dict(titles)
        self._states: dict[str, tuple[str, float]] = {}
        self._running: str | None = None
        self._began = 0.0
        self._passing = ""
        self._step: TrainingStep | None = None
        self._losses: list[float] = []
        self._console = Console(file=terminal, highlight=False, emoji=False, markup=False)
        self._live = RichLive(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=True,
            vertical_overflow="crop",
        )
        self._live.start()

    def begin(self, stage: str, title: str) -> None:
        self._titles.setdefault(stage, title)
        self._running, self._began, self._passing = stage, time.monotonic(), ""

    def show(self, line: str) -> None:
        self._passing = ""
        if step := TrainingStep.parse(line):
            self._step = step
            self._losses.append(step.loss)
        elif _PASSING.search(line) or _FIGURE.fullmatch(line):
            self._passing = line
        else:
            style = "yellow" if line.startswith(WARNING) else "bold red" if line.startswith(_ERRORS) else None
            for part in self._wrapped(line):
                self._console.print(part, style=style, soft_wrap=True)

    def end(self, stage: str, state: str, seconds: float) -> None:
        self._states[stage] = (state, seconds)
        self._running, self._passing = None, ""

    def close(self) -> None:
        if self._running is not None:
            self._states[self._running] = ("stopped", time.monotonic() - self._began)
            self._running = None
        self._passing = ""
        self._live.stop()

    def _wrapped(self, line: str) -> list[str]:
        """In lines of the terminal's width; a longer word, such as a path, is left to the terminal."""
        return textwrap.wrap(line, max(20, self._console.width), break_long_words=False, break_on_hyphens=False)

    def _draw(self) -> Any:
        """What the terminal shows now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        stages = Table.grid(padding=(0, 2))
        # Minimum widths, so that columns do not move when a state changes.
        stages.add_column(no_wrap=True)
        stages.add_column(no_wrap=True, min_width=len(USED_AGAIN))
        stages.add_column(no_wrap=True, justify="right", min_width=len("59 min 59 s"))
        for stage, title in self._titles.items():
            state, seconds = self._states.get(stage, ("", None))
            style = {DONE: "green", USED_AGAIN: "green", FAILED: "bold red", "stopped": "yellow"}.get(state, "dim")
            if stage == self._running:
                state, style, seconds = "running", "bold", time.monotonic() - self._began
            # Whole seconds do not flicker.
            took = "" if seconds is None else duration_text(round(seconds))
            stages.add_row(
                Text(title, style="bold" if style == "bold" else "" if state else "dim"),
                Text(state, style=style),
                Text(took, style="dim"),
            )
        parts: list[Any] = ["", stages]
        if self._step is not None:
            parts += ["", self._training(self._step)]
        if self._passing:
            parts += ["", *self._progress(self._passing)]
        return Group(*parts)

    def _progress(self, line: str) -> list[Any]:
        """A line that says how far something is, with a bar if it counts."""
        from rich.text import Text

        counted = _COUNTED.search(line)
        bar = []
        if counted:
            done, total = (int(number.replace(",", "")) for number in counted.groups())
            bar = [self._bar(done, total, "")]
        return [*bar, *(Text(part, style="dim", no_wrap=True) for part in self._wrapped(line))]

    def _training(self, step: TrainingStep) -> Any:
        """The progress bar of the steps and the figures of the last step."""
        from rich.console import Group
        from rich.text import Text

        figures = [f"loss {step.loss:.3f}", f"rate {step.learning_rate:.2e}", f"{step.tokens_per_second:,.0f} tokens/s"]
        if step.step < step.total:
            figures.append(f"{step.left} left")
        if "utf" in self._console.encoding.lower():
            figures.insert(0, course(self._losses, _COURSE_WIDTH))
        lines = [figures[0]]
        for figure in figures[1:]:
            longer = f"{lines[-1]}   {figure}"
            lines = [*lines[:-1], longer] if len(longer) <= self._console.width else [*lines, figure]
        bar = self._bar(step.step, step.total, f"step {step.step:,} of {step.total:,}, epoch {step.epoch}")
        return Group(bar, *(Text(line, no_wrap=True) for line in lines))

    def _bar(self, done: int, total: int, text: str) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = Table.grid(padding=(0, 2))
        row.add_column(no_wrap=True)
        row.add_column(no_wrap=True)
        width = max(4, min(40, self._console.width - 2 - len(text)))
        row.add_row(ProgressBar(total=total, completed=done, width=width), text)
        return row


def course(losses: Sequence[float], width: int) -> str:
    """The losses as at most `width` bars in one line, scaled from lowest to highest; a gap where none is finite."""
    if len(losses) > width:
        bounds = [len(losses) * at // width for at in range(width + 1)]
        parts = [losses[begin:end] for begin, end in pairwise(bounds)]
    else:
        parts = [[loss] for loss in losses]
    finite = [[loss for loss in part if abs(loss) < float("inf")] for part in parts]
    means = [sum(part) / len(part) if part else None for part in finite]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    steps = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if mean is None else _BARS[round((mean - low) * steps)] for mean in means)
