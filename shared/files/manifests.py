"""A small manifest beside a result says what it was made from; a rerun trusts a result only by its manifest."""

import hashlib
import json
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import write_json


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
