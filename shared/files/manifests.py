"""A small manifest beside a result says what it was made from; a rerun trusts a result only by its manifest."""

import hashlib
import json
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import write_json

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
    size = path.stat().st_size
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return file_digest(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for place in range(_SAMPLES + 1):
            file.seek((size - _SAMPLE_BYTES) * place // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def read_manifest(path: Path, made_from: Any) -> dict[str, Any] | None:
    """The manifest at `path` if it says that it was made from the same, else None."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != fingerprint(made_from):
        return None
    return manifest


def write_manifest(path: Path, made_from: Any, **results: Any) -> None:
    """Writes what the result was made from, its fingerprint, and what a rerun needs to return at once."""
    write_json(path, {"fingerprint": fingerprint(made_from), "made_from": made_from, **results})
