"""Folders and JSON files of the tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files below a folder, by their path in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def edit_json(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
