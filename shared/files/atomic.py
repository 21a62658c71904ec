"""A file or folder appears whole or not at all: it is written beside its place and renamed there.

A pod that is killed anywhere leaves nothing that a rerun trusts.
"""

import contextlib
import ctypes
import errno
import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.leftovers import mark_of_this_process, remove_leftovers
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.plain_text import plain_text

# linux/fcntl.h, linux/fs.h
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LONGEST_SHOWN = 300


def write_json(path: Path, content: Any) -> None:
    """Writes one JSON file, whole or not at all."""
    with replacing_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no file, or it cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the place of `path` when the block ends without an error."""
    _remove_leftovers(path)
    unfinished = _beside(path)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        _name_place(error, path, unfinished)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path` to fill; it takes the place of `path` when the block ends without an error.

    A folder that was there before stays until the new one is whole, and takes its place in one step. Where the file
    system cannot do that (NFS), a process killed between the two steps leaves neither; the next call restores the old
    one. Of two processes that replace the same folder, the later one wins. A link at `path` is replaced, and what it
    leads to stays.
    """
    _put_back(path)
    _remove_leftovers(path)
    unfinished = _beside(path)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        # Again where another process has put one there meanwhile, or moved it away.
        while not (_moved(unfinished, path) or _exchange(unfinished, path) or _replaced_in_two_steps(path, unfinished)):
            pass
    except OSError as error:
        _name_place(error, path, unfinished)
        raise
    finally:
        # By now what was there before, if all went well.
        if unfinished.is_symlink():
            unfinished.unlink()
        shutil.rmtree(unfinished, ignore_errors=True)


def _name_place(error: OSError, path: Path, unfinished: Path) -> None:
    """Writing names no file where the disk is full, and else one that is gone when somebody reads of it."""
    if error.errno is not None and error.filename in (None, str(unfinished)):
        error.filename = str(path)


def replace_with_link(path: Path, target: Path, aside: Path) -> None:
    """Makes `path` a symbolic link to the folder `target`, relative to its own folder, in one step.

    Args:
        aside: a free name on the same file system; a folder (not a link) that is at `path` is moved there.

    Raises:
        OSError: the file system has no symbolic links.
    """
    _remove_leftovers(path)
    link = _beside(path)
    link.symlink_to(os.path.relpath(target, path.parent), target_is_directory=True)
    if path.is_symlink() or not path.exists():
        os.replace(link, path)
    elif _exchange(link, path):
        os.rename(link, aside)
    else:
        os.rename(path, aside)
        os.rename(link, path)


def _moved(folder: Path, path: Path) -> bool:
    """Moves it to a free name; False where that is taken."""
    try:
        os.rename(folder, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def _replaced_in_two_steps(path: Path, unfinished: Path) -> bool:
    previous = _beside(path, "previous")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, previous)
    try:
        if not _moved(unfinished, path):
            # Another process was faster.
            shutil.rmtree(previous, ignore_errors=True)
            return False
    except OSError:
        with contextlib.suppress(OSError):
            os.rename(previous, path)
        raise
    # What is half deleted must not be put back; another process may have removed it.
    with contextlib.suppress(FileNotFoundError):
        os.rename(previous, unfinished)
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step (renameat2 of Linux); False where kernel or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def restore_replaced(parent: Path) -> None:
    """Puts back each folder below `parent` that a process killed inside replacing_folder had moved away."""
    for previous in parent.glob(".*.previous"):
        # Of the name that _beside makes.
        _put_back(parent / previous.name[1:].rsplit(".", 2)[0])


def _put_back(path: Path) -> None:
    """The folder that a killed process had moved away, where nothing came in its place."""
    for previous in path.parent.glob(f".{glob.escape(path.name)}.*.previous"):
        # Another process may do the same, or be in the midst of replacing it.
        with contextlib.suppress(FileNotFoundError):
            if not os.path.lexists(path) and _moved(previous, path):
                continue
            if previous.is_symlink():
                previous.unlink()
            shutil.rmtree(previous, ignore_errors=True)


def writable_folder(parameter: str, folder: str) -> Path:
    """Creates the folder if it is missing and checks, by writing, that it is writable.

    Raises:
        InputError: naming the parameter and the folder.
    """
    if not folder.strip():
        raise InputError(f"{parameter} is empty; give the folder of the workspace PVC, or a local folder")
    # The training runs in other processes: their working directory may be another.
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path / "write-probe")
        probe = _beside(path / "write-probe")
        probe.touch()
        probe.unlink()
    # A ValueError: of a null character, or what is not UTF-8.
    except (OSError, ValueError) as error:
        named = plain_text(folder if len(folder) <= _LONGEST_SHOWN else f"{folder[:_LONGEST_SHOWN]} ...")
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{parameter}={named} cannot be written: {reason}") from error
    return path


def _beside(path: Path, kind: str = "unfinished") -> Path:
    return path.parent / f".{path.name}.{mark_of_this_process()}{uuid.uuid4().hex[:8]}.{kind}"


def _remove_leftovers(path: Path) -> None:
    """Removes what killed processes left beside the path."""
    remove_leftovers(path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"))
