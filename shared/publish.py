"""A result appears whole or not at all, with a manifest of what it was made from.

A file or folder is written beside its place and renamed there; the manifest is written last. A pod that is killed
anywhere leaves nothing that a rerun trusts.
"""

import glob
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp_osft.shared.errors import InputError

_SECONDS_OF_A_DAY = 24 * 60 * 60


def fingerprint(made_from: Any) -> str:
    """sha256 in hex of the JSON form of what something was made from."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 in hex of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path, made_from: Any) -> dict[str, Any] | None:
    """The manifest at `path` if it says that it was made from the same, else None."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != fingerprint(made_from):
        return None
    return manifest


def write_manifest(path: Path, made_from: Any, **results: Any) -> None:
    """Writes what the result was made from, its fingerprint, and what a rerun needs to return at once."""
    write_json(path, {"fingerprint": fingerprint(made_from), "made_from": made_from, **results})


def write_json(path: Path, content: Any) -> None:
    """Writes one JSON file, whole or not at all."""
    with replacing_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; it takes the place of `path` when the block ends without an error."""
    _remove_leftovers(path)
    unfinished = _beside(path)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder beside `path` to fill; it takes the place of `path` when the block ends without an error.

    A folder that was there before stays until the new one is whole.
    """
    _remove_leftovers(path)
    unfinished, previous = _beside(path), _beside(path)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if path.exists():
            os.rename(path, previous)
        try:
            os.rename(unfinished, path)
        except OSError:
            if previous.exists():
                os.rename(previous, path)
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def writable_folder(parameter: str, folder: str) -> Path:
    """Makes the folder where it is missing and shows by writing that it can be written.

    Raises:
        InputError: naming the parameter and the folder.
    """
    if not folder.strip():
        raise InputError(f"{parameter} is empty; give the folder of the workspace PVC, or one of this computer")
    # The training runs in other processes: their working directory may be another.
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = _beside(path / "write-probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{parameter}={folder} cannot be written: {error.strerror}") from error
    return path


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished"


def _remove_leftovers(path: Path) -> None:
    """Removes what killed processes left beside the path a day ago or earlier; younger ones may be at work."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        if time.time() - leftover.stat().st_mtime > _SECONDS_OF_A_DAY:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
