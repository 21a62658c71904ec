"""The exceptions that people are meant to read, and how a stage tells them."""

import sys
from types import TracebackType


class InputError(ValueError):
    """Bad input: names the parameter or file, its value and what is allowed.

    The command line prints its text as one line and exits with code 2; a stage fails with it before any
    training starts.
    """


class TrainingError(RuntimeError):
    """A training that started and failed: carries the trainer's last lines."""


#: How a stage's last lines begin when it fails with one of these, instead of with a traceback.
INPUT_ERROR_PREFIX = "Error: "
TRAINING_ERROR_PREFIX = "Training failed: "


def tell_briefly() -> None:
    """Makes this process end with the message alone, where the exception is ours; others keep their traceback."""
    default = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        prefixes = {InputError: INPUT_ERROR_PREFIX, TrainingError: TRAINING_ERROR_PREFIX}
        if kind not in prefixes:
            default(kind, error, traceback)
            return
        for line in str(error).splitlines():
            print(f"{prefixes[kind]}{line}", flush=True)

    sys.excepthook = tell
