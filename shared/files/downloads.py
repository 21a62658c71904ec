"""Downloads into the workspace: room on the disk, and resuming after a kill."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import replacing_folder
from kfp_osft.shared.files.leftovers import mark_of_this_process, remove_leftovers
from kfp_osft.shared.files.manifests import read_manifest, write_manifest
from kfp_osft.shared.files.ownership import Owned, owned, owner_file_of
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.sizes import size_text

MANIFEST = ".manifest.json"
_MARKS = ".marks"
# Free space to leave to the rest of the run.
_ROOM_TO_LEAVE = 64 << 20


def check_room(workspace: Path, size: int, what: str) -> None:
    """Raises InputError where `size` bytes more do not fit on the workspace's disk."""
    free = shutil.disk_usage(workspace).free
    if size > free - _ROOM_TO_LEAVE:
        raise InputError(f"{what}: needs {size_text(size)}, but pvc_path={workspace} has {size_text(free)} free")


def check_free(copy: Path, file: Path) -> None:
    """Raises InputError where the copy of another file of the dataset already has this name.

    A file system that ignores case, or the forms of accented letters, takes two names for one.
    """
    if os.path.lexists(copy):
        raise InputError(
            f"dataset file {file}: the workspace's file system does not tell its name from another file's of the "
            "dataset; rename one of them"
        )


class PartialDownload:
    """The files of an unfinished download, in `folder`.

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
        """Moves the files, now complete, to `folder`, with a manifest of what they were made from and where from.

        What another process has published meanwhile stays, as it may be in use.
        """
        if read_manifest(folder / MANIFEST, made_from, tell=False):
            return
        with replacing_folder(folder) as complete:
            for entry in self.folder.iterdir():
                if entry.name != _MARKS:
                    os.rename(entry, complete / entry.name)
            write_manifest(complete / MANIFEST, made_from, complete, source=source)


@contextmanager
def partial_download(folder: Path, who: str) -> Iterator[PartialDownload]:
    """Yields what an earlier process left of the download that is to become `folder`, or an empty one.

    It is removed when the block ends without an error and otherwise stays for the next run. While another process
    downloads the same, this one downloads a copy of its own.

    Args:
        who: the stage that downloads.
    """
    # Also those that are not needed any more: the source has changed since, or nobody came back.
    remove_leftovers(folder.parent.glob(".*.partial*"))
    path = folder.parent / f".{folder.name}.partial"
    with ExitStack() as held:
        try:
            held.enter_context(owned(owner_file_of(folder), who, wait=False))
            is_common = True
        except Owned:
            path, is_common = path.with_name(f"{path.name}-{mark_of_this_process()}{uuid.uuid4().hex[:8]}"), False
        path.mkdir(parents=True, exist_ok=True)
        done = False
        try:
            yield PartialDownload(path)
            done = True
        finally:
            if done or not is_common:
                shutil.rmtree(path, ignore_errors=True)
