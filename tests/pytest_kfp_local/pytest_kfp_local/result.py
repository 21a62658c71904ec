"""What a run left: outputs, tasks, log, error."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Lines of a failed task's log that its error shows.
LAST_LINES = 20

# What KFP's executor prints around a component. It repeats the arguments: with it, a test that looks for an
# argument's value in the log would always find it.
_EXECUTOR_LINES = re.compile(
    r"^\[KFP Executor [^\]]*\]: (?:Looking for component `|Loading KFP component \"|"
    r"Wrote executor output file to |Did not write output file|Got executor_input:\n\{.*?^\}$)[^\n]*\n?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Task:
    """A call of a component's program.

    Attributes:
        name: name of the task; in a nested pipeline or a loop with that one's name before it, "inner/train".
        exit_code: 0 if it succeeded.
        log: what it printed, stdout and stderr.
        log_file: the same, with the lines of KFP's executor.
    """

    name: str
    exit_code: int
    log: str
    log_file: Path


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        outputs: values of the parameters and artifact objects by name; empty if the run failed.
        tasks: the tasks that ran, in the order in which they ended.
        error: which task failed and its last lines; None if the run succeeded.
    """

    outputs: dict[str, Any]
    tasks: tuple[Task, ...]
    error: str | None = None

    @property
    def state(self) -> str:
        """SUCCESS or FAILURE."""
        return "FAILURE" if self.error else "SUCCESS"

    @property
    def log(self) -> str:
        """What the tasks printed, one after the other."""
        return "".join(task.log for task in self.tasks)

    @property
    def output(self) -> Any:
        """The only output. AttributeError if there are none or several."""
        if len(self.outputs) != 1:
            raise AttributeError(f"output is for a run with one output; this one has {sorted(self.outputs)}")
        return next(iter(self.outputs.values()))


class TaskFailed(Exception):
    """A task failed. The message says which and shows its last lines; `result` is the run's."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.error)
        self.result = result


def read_tasks(folder: Path) -> tuple[Task, ...]:
    """The tasks that spec.RECORDER recorded below the folder."""
    ends = {}
    for exit_file in folder.rglob("exit"):
        log_file = exit_file.with_name("log")
        if exit_file.is_file() and log_file.is_file():
            log = _EXECUTOR_LINES.sub("", log_file.read_text(encoding="utf-8", errors="replace"))
            name = exit_file.parent.parent.relative_to(folder).as_posix()
            ends[Task(name, int(exit_file.read_text()), log, log_file)] = exit_file.stat().st_mtime_ns
    return tuple(sorted(ends, key=ends.__getitem__))


def describe_failures(tasks: tuple[Task, ...]) -> str:
    """Which tasks failed, with their last lines; empty if none did."""
    # A task that was tried again counts once, with its last attempt.
    failed = {task.name: task for task in tasks if task.exit_code}
    return "\n".join(map(_describe_failure, failed.values()))


def _describe_failure(task: Task) -> str:
    lines = task.log.rstrip().splitlines()[-LAST_LINES:] or ["(it printed nothing)"]
    # The first line is what pytest's summary shows.
    return "\n".join(
        [
            f"task {task.name!r} failed with exit code {task.exit_code}: {lines[-1].strip()}",
            *(f"  {line}" for line in lines),
            f"all that it printed: {task.log_file}",
        ]
    )
