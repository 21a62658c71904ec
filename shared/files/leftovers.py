"""What killed processes leave behind, and when it goes."""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

_SECONDS_OF_A_DAY = 24 * 60 * 60


def mark_of_this_process() -> str:
    """A part of the names of files that only this process needs: it says later whether the process still lives."""
    return f"{_mark_of_machine()}-{os.getpid()}-"


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes the files and folders that bear the mark of a process of this machine that is gone, and those without
    such a mark that nobody has written to for a day; others may be in use.

    Other processes may remove the same ones at the same time.
    """
    for path in paths:
        lives = _process_lives(path.name)
        if lives is None:
            written = max(_times_of_change(path), default=None)
            lives = written is None or time.time() - written <= _SECONDS_OF_A_DAY
        if lives:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _process_lives(name: str) -> bool | None:
    """Whether the process whose mark the name bears lives; None for a name without a mark of this machine."""
    found = re.search(rf"{_mark_of_machine()}-(\d+)-", name)
    if not found:
        return None
    try:
        os.kill(int(found[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        # Somebody else's.
        return True
    return True


def machine() -> str:
    """Tells apart whatever has process ids of its own: machines, their boots, containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


@cache
def _mark_of_machine() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


def _times_of_change(path: Path) -> Iterator[float]:
    """Of the path and of all below it, as far as it is still there."""
    below = (os.path.join(folder, name) for folder, folders, files in os.walk(path) for name in [*folders, *files])
    for place in (path, *below):
        with contextlib.suppress(OSError):
            yield os.lstat(place).st_mtime
