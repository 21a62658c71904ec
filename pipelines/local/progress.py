"""How a local run is displayed: a live view on a terminal, line by line elsewhere, or only the stages."""

import contextlib
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, TextIO

from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.stage import INPUT_ERROR_PREFIX, TRAINING_ERROR_PREFIX
from kfp_osft.shared.training.steps import TrainingStep

DONE = "done"
FAILED = "failed"
_USED_AGAIN = "used again"
# Lines that every view shows.
_IMPORTANT = ("Warning: ", INPUT_ERROR_PREFIX, TRAINING_ERROR_PREFIX)
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
        """A stage ended; its state is DONE or FAILED."""

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
        if not self._quiet or line.startswith(_IMPORTANT):
            self._write(f"      {line}")

    def end(self, stage: str, state: str, seconds: float) -> None:
        self._write(f"      {state} after {duration_text(seconds)}")

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
    """The stages with their states, the progress of the training and the last line of the log, redrawn in place.

    Warnings and errors stay above it. Colors and width follow the terminal (rich: NO_COLOR, COLUMNS).

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
        self._last_line = ""
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
        self._running, self._began, self._last_line = stage, time.monotonic(), ""

    def show(self, line: str) -> None:
        if step := TrainingStep.parse(line):
            self._step = step
            self._losses.append(step.loss)
        elif line.startswith(_IMPORTANT):
            self._console.print(line, soft_wrap=True)
        else:
            self._last_line = line

    def end(self, stage: str, state: str, seconds: float) -> None:
        used_again = state == DONE and self._last_line.endswith(_USED_AGAIN)
        self._states[stage] = (_USED_AGAIN if used_again else state, seconds)
        self._running, self._last_line = None, ""

    def close(self) -> None:
        if self._running is not None:
            self._states[self._running] = ("stopped", time.monotonic() - self._began)
            self._running = None
        self._last_line = ""
        self._live.stop()

    def _draw(self) -> Any:
        """What the terminal shows now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        stages = Table.grid(padding=(0, 2))
        # Minimum widths, so that columns do not move when a state changes.
        stages.add_column(no_wrap=True)
        stages.add_column(no_wrap=True, min_width=len(_USED_AGAIN))
        stages.add_column(no_wrap=True, justify="right", min_width=len("59 min 59 s"))
        for stage, title in self._titles.items():
            state, seconds = self._states.get(stage, ("", None))
            style = {DONE: "green", _USED_AGAIN: "green", FAILED: "bold red", "stopped": "yellow"}.get(state, "dim")
            if stage == self._running:
                state, style, seconds = "running", "bold", time.monotonic() - self._began
            # Whole seconds do not flicker.
            took = "" if seconds is None else duration_text(round(seconds))
            stages.add_row(
                Text(title, style="bold" if style == "bold" else "" if state else "dim"),
                Text(state, style=style),
                Text(took, style="dim"),
            )
        parts: list[Any] = [stages]
        if self._step is not None:
            parts += ["", self._training(self._step)]
        if self._last_line:
            parts += ["", Text(self._last_line, style="dim", no_wrap=True, overflow="ellipsis")]
        return Group(*parts)

    def _training(self, step: TrainingStep) -> Any:
        """The progress bar of the steps and the figures of the last step."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = Table.grid(padding=(0, 2))
        bar.add_column(no_wrap=True)
        bar.add_column(no_wrap=True)
        bar.add_row(
            ProgressBar(total=step.total, completed=step.step, width=min(40, self._console.width // 2)),
            f"step {step.step:,} of {step.total:,}, epoch {step.epoch}",
        )
        figures = [f"loss {step.loss:.3f}", f"rate {step.learning_rate:.2e}", f"{step.tokens_per_second:,.0f} tokens/s"]
        if step.step < step.total:
            figures.append(f"{step.left} left")
        if "utf" in self._console.encoding.lower():
            figures.insert(0, course(self._losses, _COURSE_WIDTH))
        return Group(bar, Text("   ".join(figures), no_wrap=True, overflow="ellipsis"))


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
