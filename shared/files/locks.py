"""A lock that one process at a time holds, on this machine or, where the file system has such locks, on all."""

import errno
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

# NFS without its lock service, and other file systems; where the call itself is missing (ENOSYS), newer versions of
# filelock make do with the file's existence.
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class LocksUnsupported(OSError):
    """The file system has no locks."""


def lock_file(path: Path, wait: bool) -> "BaseFileLock | None":
    """Locks the file, which is made where it is missing; the lock ends with release() or with the process.

    Args:
        path: in an existing folder. Only filelock may remove it: a process that waits has it open.
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
        raise LocksUnsupported(errno.ENOSYS, f"no locks on the file system of {path}") from error
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise LocksUnsupported(error.errno, f"no locks on the file system of {path}") from error
        raise
    return lock
