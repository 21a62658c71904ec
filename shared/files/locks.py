"""A lock that one process at a time holds, on this machine or, where the file system has such locks, on all."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


class LocksUnsupported(OSError):
    """The file system has no locks."""


def lock_file(path: Path, wait: bool) -> "BaseFileLock | None":
    """Locks the file, which is made where it is missing and stays; the lock ends with release() or the process.

    Args:
        path: in an existing folder. Nobody may remove it: who has it open would hold a lock of its own.
        wait: for another process that holds it; else None is returned.

    Raises:
        LocksUnsupported: see there.
        OSError: the file cannot be opened.
    """
    from filelock import FileLock, Timeout

    # Pods may run as different users of one group.
    lock = FileLock(path, mode=0o664)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return None
    except NotImplementedError as error:
        raise LocksUnsupported(f"no locks on the file system of {path}") from error
    return lock
