"""Downloads into the workspace: room on the disk, progress, and going on after a kill."""

import errno
import fcntl
import json
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import replacing_folder
from kfp_osft.shared.files.manifests import read_manifest, write_manifest
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log

MANIFEST = ".manifest.json"
_MARKS, _LOCK = ".marks", ".lock"
_SECONDS_BETWEEN_PROGRESS = 10
_SECONDS_OF_A_DAY = 24 * 60 * 60
# Of what is free, so much is left to the rest of the run.
_ROOM_TO_LEAVE = 64 << 20


def size_text(size: float) -> str:
    """A number of bytes for people, as "1.5 GiB"."""
    if size < 1024:
        return f"{size:.0f} bytes"
    power = min(int(math.log(size, 1024)), 4)
    return f"{size / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def check_room(workspace: Path, size: int, what: str) -> None:
    """Raises InputError where `size` bytes more do not fit on the workspace's disk."""
    free = shutil.disk_usage(workspace).free
    if size > free - _ROOM_TO_LEAVE:
        raise InputError(f"{what}: takes {size_text(size)}, and pvc_path={workspace} has {size_text(free)} free")


@contextmanager
def telling_a_full_disk(workspace: Path) -> Iterator[None]:
    """Turns the operating system's "no space left" into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = size_text(shutil.disk_usage(workspace).free)
        raise InputError(f"pvc_path={workspace}: {error.strerror} ({free} free)") from None


class Progress:
    """Tells every ten seconds how much of a download is there; add may be called from several threads."""

    def __init__(self, what: str, size: int | None, done: int = 0) -> None:
        """size: of the whole in bytes, None where the server does not tell; done: there from an earlier run."""
        self._what, self._size, self._done, self._begin = what, size, done, done
        self._started = self._last_told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """So many bytes more; fewer where a part is fetched again."""
        with self._lock:
            self._done += size
            now = time.monotonic()
            if now - self._last_told < _SECONDS_BETWEEN_PROGRESS:
                return
            self._last_told = now
            speed = (self._done - self._begin) / (now - self._started)
            of_all = left = ""
            if self._size is not None:
                of_all = f" of {size_text(self._size)}"
                left = f", {(self._size - self._done) / speed:,.0f} s left" if speed > 0 else ""
            log(f"{self._what}: {size_text(self._done)}{of_all}, {size_text(speed)}/s{left}")


class PartialDownload:
    """The files of a download as far as they are there, in `folder`.

    What counts is what was marked: after a machine went down, a file can be longer than what is in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marks = folder / _MARKS
        self._marked: dict[str, int] = {}
        lines = self._marks.read_text(encoding="utf-8").splitlines() if self._marks.exists() else []
        for line in lines:
            try:
                name, size = json.loads(line)
            except ValueError:
                # The line at which the process was killed.
                continue
            self._marked[name] = size

    def trusted_bytes(self, name: str) -> int:
        """How many bytes from the beginning of the file are safely on the disk."""
        file, marked = self.folder / name, self._marked.get(name, 0)
        return marked if file.is_file() and file.stat().st_size >= marked else 0

    def mark(self, name: str, size: int) -> None:
        """The file's first `size` bytes are written: brings them to the disk, and notes it."""
        with (self.folder / name).open("rb") as file:
            os.fsync(file.fileno())
        # A cut line of an earlier process ends here.
        with self._marks.open("a", encoding="utf-8") as marks:
            marks.write(f"\n{json.dumps([name, size])}\n")
            marks.flush()
            os.fsync(marks.fileno())
        self._marked[name] = size

    def publish(self, folder: Path, made_from: Any, source: Mapping[str, str]) -> None:
        """Moves the files, now whole, to `folder`, with a manifest of what they were made from and where that is.

        What another process has published meanwhile stays: somebody may be reading it.
        """
        if read_manifest(folder / MANIFEST, made_from):
            return
        with replacing_folder(folder) as complete:
            for entry in self.folder.iterdir():
                if entry.name not in (_MARKS, _LOCK):
                    os.rename(entry, complete / entry.name)
            write_manifest(complete / MANIFEST, made_from, source=source)


@contextmanager
def partial_download(folder: Path) -> Iterator[PartialDownload]:
    """Gives what an earlier process left of the download that is to become `folder`, or an empty one.

    It goes when the block ends without an error, and stays for the next run when it does not. While another process
    downloads the same, this one does so on its own.
    """
    _remove_abandoned(folder.parent)
    path = folder.parent / f".{folder.name}.partial"
    lock = _locked(path)
    if lock is None:
        path = path.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}")
        path.mkdir()
    done = False
    try:
        yield PartialDownload(path)
        done = True
    finally:
        if done or lock is None:
            shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Makes the folder and locks it for this process; None while another has it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            # Whoever had it has just finished.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK)):
                return lock
        except FileNotFoundError:
            pass
        except OSError:
            # Held, or a file system without locks.
            os.close(lock)
            return None
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Removes what nobody has written to for a day: the source has changed since, or nobody came back."""
    for folder in parent.glob(".*.partial*"):
        times = [file.stat().st_mtime for file in [folder, *folder.rglob("*")] if file.exists()]
        if times and time.time() - max(times) > _SECONDS_OF_A_DAY:
            shutil.rmtree(folder, ignore_errors=True)
