"""The files of a dataset on disk, and the rows in them."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from kfp_osft.shared.reporting.errors import InputError, kind_of
from kfp_osft.shared.reporting.progress import Progress
from kfp_osft.shared.rows.formats import ALLOWED_FILES, format_of_file, has_data_extension, rows_of
from kfp_osft.shared.rows.splits import DESCRIPTIONS, splits_by_name

# What `datasets` writes beside the data: save_to_disk of a Dataset, and of a DatasetDict around its splits.
_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
# A look at the clock costs as much as reading some rows.
_ROWS_BETWEEN_LOOKS = 1000
# Of a file in a folder, and in a message.
_LONGEST_NAME, _LONGEST_SHOWN = 255, 80


class Row(NamedTuple):
    """A row and where it stands, as "data/train.jsonl, row 3" (counted from 1; the path is relative to the dataset)."""

    place: str
    values: dict[str, Any]


def dataset_files(path: Path) -> list[Path]:
    """The data files of a dataset: the file itself, or those of a folder, sorted by name.

    Hidden files and folders are passed over, and so are files that are no data (a README, dataset_infos.json). Of a
    folder that `datasets` saved, the files that its state.json names are taken.

    Raises:
        InputError: nothing there, no data file in the folder, an extension that is none of FORMATS, an empty file.
    """
    if path.is_dir():
        files = _files_of_folder(path)
        if not files:
            raise InputError(f"dataset folder {path} holds no data file; allowed: {ALLOWED_FILES}")
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"dataset {path} does not exist")
    for file in files:
        if not file.exists():
            raise InputError(f"dataset file {file} is missing: a link without its target, or a part of a saved dataset")
        if file.stat().st_size == 0:
            raise InputError(f"dataset file {file} is empty")
        format_of_file(file)
    return files


def descriptions(path: Path) -> list[Path]:
    """The files of a folder that `datasets` saved which say what belongs to it; a copy needs them too."""
    names = (_STATE, _INFO, _SPLITS)
    return sorted(file for file in path.rglob("*.json") if file.name in names) if path.is_dir() else []


def passed_over(path: Path) -> list[Path]:
    """The files of a folder that are no data by their extension or name, sorted by name; hidden ones left out."""
    if not path.is_dir():
        return []
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not is_hidden(file.relative_to(path)) and not is_data(file.name)
    )


def is_data(name: str) -> bool:
    """Whether a file of this name holds rows, by its extension; a dataset_infos.json and the like do not."""
    return has_data_extension(name) and name.lower() not in DESCRIPTIONS


def is_hidden(path: PurePath) -> bool:
    """Whether a part of the relative path begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def saved_splits(path: Path) -> list[str]:
    """The splits of a folder that DatasetDict.save_to_disk wrote, each a folder below it; none for another folder.

    Raises:
        InputError: its dataset_dict.json cannot be read.
    """
    description = path / _SPLITS
    return _names_beside(description, _described(description, "splits")) if description.is_file() else []


def named_splits(path: Path) -> dict[str, list[Path]]:
    """The splits of a folder by the names of its files and folders, train first; none for a file or a saved dataset.

    Raises:
        InputError: what dataset_files raises.
    """
    if not path.is_dir() or (path / _SPLITS).is_file() or (path / _STATE).is_file():
        return {}
    return splits_by_name(path, dataset_files(path))


def check_one_split(path: Path) -> None:
    """Checks that a dataset is not several splits: to read them all would train on the held-out rows too.

    Raises:
        InputError: naming the splits.
    """
    splits = saved_splits(path)
    if len(splits) > 1:
        raise InputError(f"dataset folder {path} holds several splits; give the folder of one: {', '.join(splits)}")
    named = named_splits(path)
    if not named:
        return
    _, first = next(iter(named.items()))
    others = {*dataset_files(path)} - {*first}
    if others:
        raise InputError(
            f"dataset folder {path} holds the split{'s' * (len(named) > 1)} {', '.join(named)} by the names of its "
            f"files, and {len(others)} other file{'s' * (len(others) > 1)} than the first one's; "
            "choose with dataset_split of resolve_dataset, or give the files of one split"
        )


def read_rows(path: Path) -> Iterator[Row]:
    """Reads a dataset file or folder row by row, in pieces.

    Raises:
        InputError: what dataset_files and check_one_split raise; a file that is not of its format; a row that is not
            an object.
    """
    check_one_split(path)
    for file in dataset_files(path):
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        for number, values in enumerate(rows_of(file), start=1):
            place = f"{name}, row {number}"
            if not isinstance(values, dict):
                raise InputError(f"{place}: is {kind_of(values)}, expected an object with the fields of a row")
            yield Row(place, values)


def count_rows(path: Path) -> int:
    """Counts the rows and checks that each can be read; logs its progress.

    Raises:
        InputError: what read_rows raises; no row at all.
    """
    rows, progress = 0, Progress("Read", None, "rows")
    for _ in read_rows(path):
        rows += 1
        if rows % _ROWS_BETWEEN_LOOKS == 0:
            progress.add(_ROWS_BETWEEN_LOOKS)
    if not rows:
        raise InputError(f"dataset {path} has no rows")
    return rows


def rows_known_cheaply(files: list[Path]) -> int | None:
    """Counts rows where that is cheap: lines of JSON Lines files, the footers of Parquet files; else None."""
    total = 0
    for file in files:
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            with file.open("rb") as opened:
                while piece := opened.read(1 << 20):
                    total += piece.count(b"\n")
        elif file.suffix.lower() == ".parquet":
            import pyarrow
            from pyarrow.parquet import ParquetFile

            try:
                with ParquetFile(file) as parquet:
                    total += parquet.metadata.num_rows
            except (pyarrow.ArrowException, OSError):
                return None
        else:
            return None
    return total


def _files_of_folder(path: Path) -> list[Path]:
    found = [
        file
        for file in path.rglob("*")
        if has_data_extension(file.name)
        and (file.is_file() or (file.is_symlink() and not file.exists()))
        and not is_hidden(file.relative_to(path))
    ]
    # A .arrow file that state.json does not name is a cache of `datasets`.
    saved = {
        file.parent: _names_beside(file, _described(file, "_data_files"), "filename")
        for file in found
        if file.name == _STATE and any(file.parent.glob("*.arrow"))
    }
    apart = {file for file in found if file.parent in saved or not is_data(file.name)}
    return sorted({*found} - apart | {folder / name for folder, names in saved.items() for name in names})


def _described(file: Path, field: str) -> Any:
    try:
        return json.loads(file.read_bytes())[field]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise InputError(f"dataset file {file} cannot be read as what `datasets` writes: no '{field}'") from None


def _names_beside(description: Path, listed: Any, field: str | None = None) -> list[str]:
    """The names of files or folders in a description: of its own folder, whatever it says.

    Raises:
        InputError: it lists something else, or a name leads out of the folder.
    """
    if not isinstance(listed, list):
        raise InputError(
            f"dataset file {description} cannot be read as what `datasets` writes: it has no list of names"
        )
    names: list[str] = []
    for entry in listed:
        name = entry.get(field) if field and isinstance(entry, dict) else entry
        if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or not _is_usable(name):
            raise InputError(
                f"dataset file {description} names {repr(name)[:_LONGEST_SHOWN]}; allowed: the names of what lies "
                "beside it, as `datasets` writes them"
            )
        names.append(name)
    return names


def _is_usable(name: str) -> bool:
    """Whether a file system can have a file of that name, in UTF-8."""
    return "\0" not in name and len(name.encode(errors="replace")) <= _LONGEST_NAME
