"""The exceptions that people are meant to read."""

import datetime
import decimal
import errno
import os
from typing import Any


class InputError(ValueError):
    """Bad input: names the parameter or file, its value and what is allowed.

    The command line prints its text as one line and exits with code 2; a stage fails with it before any
    training starts.
    """


class TrainingError(RuntimeError):
    """A training that started and failed: carries the trainer's last lines."""


# What the disk of the workspace, or of temporary files, does to whoever writes there.
_DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENAMETOOLONG,
)
_LONGEST_NAME = 200
# Of libraries in Rust and C++, whose exceptions are no OSErrors.
_IN_WORDS = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))


def system_problem(error: BaseException) -> str | None:
    """A sentence on memory that ran out, or on a file that cannot be written or read because of its disk, its folder's
    rights or its name; None for any other exception."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.errno in _DISK:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
        name = names[-1] if names else ""
        where = f": {name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + ' ...'}" if name else ""
        return f"{os.strerror(error.errno or 0)}{where}"
    said = str(error)
    return next((words for words in _IN_WORDS if words in said), None)


# A boolean is a number to Python, and a timestamp a date: the narrower ones first.
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),
    (int, "a number"),
    (float, "a number"),
    (str, "a string"),
    (list, "a list"),
    (dict, "an object"),
    (bytes, "bytes"),
    (decimal.Decimal, "a decimal number"),
    (datetime.datetime, "a timestamp"),
    (datetime.date, "a date"),
    (datetime.time, "a time"),
    (datetime.timedelta, "a duration"),
)


def kind_of(value: Any) -> str:
    """What a value is, in a message's words: "an empty list", "a number"."""
    if value is None:
        return "null"
    if isinstance(value, (list, str)) and not value:
        return f"an empty {'list' if isinstance(value, list) else 'string'}"
    known = next((words for kind, words in _KINDS if isinstance(value, kind)), None)
    return known or f"a value of type {getattr(value, 'kind', type(value).__name__)}"
