"""Puts a model's files into another folder: its weights are there once where the file system can."""

import os
import shutil
from pathlib import Path

from kfp_osft.shared.reporting.log import log


def place_files(source: Path, target: Path) -> None:
    """Weights as hard links where the file system can; the small files as copies, which may be changed."""
    copied = 0
    for file in sorted(source.rglob("*")):
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir(exist_ok=True)
            continue
        if file.suffix == ".safetensors":
            try:
                os.link(file, place)
            except OSError:
                # Another file system, or one without hard links.
                shutil.copyfile(file, place)
                copied += file.stat().st_size
        else:
            shutil.copyfile(file, place)
    if copied:
        log(f"{copied / 1e9:,.1f} GB of weights are copied to {target}: there are no hard links to it")


def let_others_read(folder: Path) -> None:
    """safetensors saves for the owner alone; a pod that serves the model is somebody else."""
    for place in (folder, *folder.rglob("*")):
        place.chmod(place.stat().st_mode | (0o055 if place.is_dir() else 0o044))
