"""Puts a model's files into another folder: its weights are there once where the file system can."""

import os
import shutil
import uuid
from pathlib import Path

from kfp_osft.shared.files.atomic import replace_with_link, replacing_folder
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


def show_as(final_model: Path, model: Path) -> None:
    """Makes final_model a link to the run's model; a copy, its weights hard links, where there are no links.

    A folder that is there under that name, as other tools leave one, is moved beside the models: a later run may have
    begun from it.
    """
    aside = model.parent / f"earlier-{uuid.uuid4().hex[:8]}"
    try:
        if final_model.is_dir() and not final_model.is_symlink():
            log(f"{final_model} was a folder; it is {aside} from now on")
        replace_with_link(final_model, model, aside)
    except OSError:
        with replacing_folder(final_model) as unfinished:
            place_files(model, unfinished)


def let_others_read(folder: Path) -> None:
    """safetensors saves for the owner alone; a pod that serves the model is somebody else."""
    for place in (folder, *folder.rglob("*")):
        place.chmod(place.stat().st_mode | (0o055 if place.is_dir() else 0o044))
