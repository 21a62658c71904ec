"""A small manifest beside a result says what it was made from and what it consists of.

A rerun trusts a result only by its manifest, and only while its files are as they were written: their sizes, and
samples of their content.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import read_json_object, write_json
from kfp_osft.shared.reporting.log import log

_SAMPLES, _SAMPLE_BYTES = 256, 1 << 16


def fingerprint(made_from: Any) -> str:
    """sha256 in hex of the JSON form of what something was made from."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 in hex of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_digest(path: Path) -> str:
    """sha256 in hex of samples of a large file: 64 KiB at each of 257 places, the first and the last among them.

    That is all of a file of up to 16 MiB, and tells apart two models of one shape in a moment, however large.
    """
    with path.open("rb") as file:
        return _sampled_digest(file, os.fstat(file.fileno()).st_size)


def _sampled_digest(file: BufferedReader, size: int) -> str:
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for place in range(_SAMPLES + 1):
        file.seek((size - _SAMPLE_BYTES) * place // _SAMPLES)
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def read_manifest(path: Path, made_from: Any, *, tell: bool = True) -> dict[str, Any] | None:
    """The manifest at `path` if it says that the result was made from the same and the result is whole, else None.

    Args:
        path: of the manifest.
        made_from: as write_manifest got it.
        tell: logs which file is missing or has changed.
    """
    manifest = read_json_object(path)
    if manifest.get("fingerprint") != fingerprint(made_from):
        return None
    damage = _damage(path, manifest.get("made"))
    if damage and tell:
        log(f"Warning: {damage} since it was written")
    return None if damage else manifest


def write_manifest(path: Path, made_from: Any, made: Path | Iterable[Path], **results: Any) -> None:
    """Writes what the result was made from and of what it consists, and what a rerun needs to return at once.

    Args:
        path: of the manifest, in or above the folder of the result.
        made_from: anything that JSON can hold.
        made: the result: files, or a folder, to which nothing may be added either. Its hidden files do not count.
        results: stored as they are.
    """
    folder, files = (made, _visible_files(made)) if isinstance(made, Path) else (None, made)
    parts = {
        "folder": folder and _name(folder, path.parent),
        "files": {_name(file, path.parent): _size_and_digest(file) for file in files},
    }
    write_json(path, {"fingerprint": fingerprint(made_from), "made_from": made_from, "made": parts, **results})


def _damage(path: Path, made: Any) -> str | None:
    """What is not as write_manifest found it, as the beginning of a sentence.

    Args:
        path: of the manifest.
        made: as it is in the manifest, which may be anybody's.
    """
    place = path.parent
    try:
        for name, size_and_digest in made["files"].items():
            try:
                found = _size_and_digest(place / name)
            except OSError:
                return f"{place / name} has disappeared or become unreadable"
            if found != size_and_digest:
                return f"{place / name} has changed"
        if made["folder"] is not None:
            folder = place / made["folder"]
            added = {_name(file, place) for file in _visible_files(folder)} - {*made["files"], path.name}
            return f"{place / min(added)} has been added" if added else None
    except (LookupError, TypeError, AttributeError):
        return f"what belongs to {place} has become unknown"
    return None


def _size_and_digest(file: Path) -> list[Any]:
    # The size of the open file: NFS may give an old one by the name.
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        return [size, _sampled_digest(opened, size)]


def _visible_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
