"""The splits of a dataset folder by the names of its files and folders, as the Hugging Face Hub tells them apart.

The rules are those of datasets.data_files (5.2), read without regard to case: "Test.csv" is held-out data too.
"""

import re
from collections.abc import Iterable
from pathlib import Path

#: `datasets` (data_files.FILES_TO_IGNORE) and what lies beside data elsewhere: descriptions, never rows.
DESCRIPTIONS = frozenset(
    (
        "config.json",
        "croissant.json",
        "dataset_dict.json",
        "dataset_info.json",
        "dataset_infos.json",
        "package.json",
        "readme.json",
        "state.json",
    )
)

_KEYWORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
_SEPARATOR = r"[-._ 0-9]"
_SHARD = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*", re.IGNORECASE)
_IN_FOLDER_NAME = {
    split: re.compile(rf"(.*{_SEPARATOR})?({words})({_SEPARATOR}.*)?", re.IGNORECASE | re.DOTALL)
    for split, words in _KEYWORDS.items()
}
_IN_FILE_NAME = {
    split: re.compile(rf"(.*{_SEPARATOR})?({words}){_SEPARATOR}.*", re.IGNORECASE | re.DOTALL)
    for split, words in _KEYWORDS.items()
}


def splits_by_name(folder: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """The files of each split, train first; empty where no name says anything.

    The first rule that finds a split decides: data/<split>-00000-of-00001.*, then a keyword in a folder's name, then
    one in a file's. Files that it does not match belong to no split.
    """
    names = {file: file.relative_to(folder) for file in files}
    shards: dict[str, list[Path]] = {}
    for file, name in names.items():
        if found := _SHARD.fullmatch(name.as_posix()):
            shards.setdefault(found[1], []).append(file)
    if shards:
        return {split: shards[split] for split in sorted(shards, key=_known_first)}
    for by_folder in (True, False):
        splits = {}
        for split in _KEYWORDS:
            pattern = (_IN_FOLDER_NAME if by_folder else _IN_FILE_NAME)[split]
            matched = [
                file
                for file, name in names.items()
                if any(pattern.fullmatch(part) for part in (name.parts[:-1] if by_folder else name.parts[-1:]))
            ]
            if matched:
                splits[split] = matched
        if splits:
            return splits
    return {}


def _known_first(split: str) -> tuple[int, str]:
    known = list(_KEYWORDS)
    return (known.index(split) if split in known else len(known), split)
