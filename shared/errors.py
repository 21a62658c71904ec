"""The exceptions that people are meant to read, and how a stage tells them."""

import sys
from types import TracebackType
from typing import Any


class InputError(ValueError):
    """Bad input: names the parameter or file, its value and what is allowed.

    The command line prints its text as one line and exits with code 2; a stage fails with it before any
    training starts.
    """


class TrainingError(RuntimeError):
    """A training that started and failed: carries the trainer's last lines."""


def kind_of(value: Any) -> str:
    """What a value is, in a message's words: "an empty list", "a number"."""
    if value is None:
        return "null"
    if isinstance(value, (list, str)) and not value:
        return f"an empty {'list' if isinstance(value, list) else 'string'}"
    return {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list",
            dict: "an object"}.get(type(value), type(value).__name__)


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
