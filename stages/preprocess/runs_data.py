"""The data of one run: what lies in training_data_output_dir is replaced by the next run that is given that folder."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.files.manifests import read_manifest
from kfp_osft.shared.files.ownership import OWNER_FILE, owned
from kfp_osft.shared.reporting.log import log


def keep_for_the_run(data: Sequence[Path], report: Path, manifest: Path, made_from: Any, folder: Path) -> None:
    """Puts the files into the run's own folder: as hard links, or as copies on another file system.

    Data that is there already stays, since the training may be reading it.

    Args:
        data: files, of which some may be missing.
        report: on the data.
        manifest: what the data was made from.
        made_from: as the manifest has it.
        folder: of the run.
    """
    if folder.resolve() == manifest.parent.resolve():
        return
    with owned(folder / OWNER_FILE, "preprocess"):
        _place(report, folder)
        if read_manifest(folder / manifest.name, made_from):
            return
        # Without it nothing trusts the data.
        (folder / manifest.name).unlink(missing_ok=True)
        for file in data:
            if file.is_file():
                _place(file, folder)
            else:
                (folder / file.name).unlink(missing_ok=True)
        _place(manifest, folder)
    log(f"The training reads this data in {folder}, where no other run replaces it")


def _place(file: Path, folder: Path) -> None:
    with replacing_file(folder / file.name) as unfinished:
        try:
            os.link(file, unfinished)
        except OSError:
            shutil.copyfile(file, unfinished)
