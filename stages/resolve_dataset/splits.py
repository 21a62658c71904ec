"""One split of a dataset: of a DatasetDict that was saved to disk, or of files that are named by their split."""

import os
import shutil
from pathlib import Path

from kfp_osft.shared.files.atomic import replacing_folder
from kfp_osft.shared.files.downloads import MANIFEST, check_free
from kfp_osft.shared.files.manifests import fingerprint, read_manifest, write_manifest
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.listing import listed
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.files import dataset_files, named_splits, saved_splits
from kfp_osft.shared.training.run_file import dataset_source

_MOST_NAMES_SHOWN = 5


def split_of(path: Path, split: str, workspace: Path, all_without_splits: bool = False) -> Path:
    """The file or folder of one split of `path`; `path` itself where it has no splits.

    Where the split's files lie among others, the folder is one of links to them, in workspace/datasets.

    Args:
        path: file or folder.
        split: name of the split; empty means train.
        workspace: the workspace folder.
        all_without_splits: the rows of a dataset without splits are meant, whatever `split` says.

    Raises:
        InputError: the dataset has splits, and not this one.
    """
    if splits := saved_splits(path):
        _check(path, split, list(splits), "")
        return path / split
    named = named_splits(path)
    if not named:
        if split not in ("", "train") and not all_without_splits:
            log(f"Warning: dataset_split={split} is not used: {path} has no splits, all its rows are taken")
        return path
    split = split or "train"
    _check(path, split, list(named), " by the names of its files")
    files, others = named[split], sorted({*dataset_files(path)} - {*named[split]})
    if not others:
        return path
    shown = listed([str(file.relative_to(path)) for file in others], _MOST_NAMES_SHOWN)
    log(f"The split {split} of {path} is {len(files)} of its files; not taken: {shown}")
    source = dataset_source(str(path))
    if len(files) == 1 and not source:
        return files[0]
    return _folder_of_links(path, split, files, workspace, {"uri": str(path), **source, "split": split})


def _check(path: Path, split: str, splits: list[str], how: str) -> None:
    if split not in splits:
        raise InputError(f"dataset_split={split} is not in {path}{how}; allowed: {', '.join(splits)}")


def _folder_of_links(path: Path, split: str, files: list[Path], workspace: Path, source: dict[str, str]) -> Path:
    made_from = [
        str(path),
        split,
        *([str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files),
    ]
    folder = workspace / "datasets" / f"{path.name}-{split}-{fingerprint(made_from)[:12]}"
    if not read_manifest(folder / MANIFEST, made_from):
        with replacing_folder(folder) as unfinished:
            for file in files:
                link = unfinished / file.relative_to(path)
                link.parent.mkdir(parents=True, exist_ok=True)
                check_free(link, file)
                try:
                    os.symlink(file.resolve(), link)
                except OSError:
                    # Stores that are mounted as a file system may have no links.
                    shutil.copyfile(file, link)
            write_manifest(unfinished / MANIFEST, made_from, unfinished, source=source)
    return folder
