"""What killed processes leave behind, and when it goes."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_SECONDS_OF_A_DAY = 24 * 60 * 60


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes the files and folders that nobody has written to for a day; a younger one may be in use.

    Other processes may remove the same ones at the same time.
    """
    for path in paths:
        written = max(_times_of_change(path), default=None)
        if written is None or time.time() - written <= _SECONDS_OF_A_DAY:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _times_of_change(path: Path) -> Iterator[float]:
    """Of the path and of all below it, as far as it is still there."""
    below = (os.path.join(folder, name) for folder, folders, files in os.walk(path) for name in [*folders, *files])
    for place in (path, *below):
        with contextlib.suppress(OSError):
            yield os.lstat(place).st_mtime
