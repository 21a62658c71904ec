"""resolve_dataset: where a dataset comes from, and bringing it into the workspace."""

import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kfp_osft.shared.files.atomic import replacing_folder, writable_folder
from kfp_osft.shared.files.downloads import MANIFEST, check_free, check_room
from kfp_osft.shared.files.full_disk import explaining_a_full_disk
from kfp_osft.shared.files.manifests import file_digest, fingerprint, read_manifest, write_manifest
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.listing import listed
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.plain_text import plain_text
from kfp_osft.shared.reporting.redaction import keep_secrets_of, redacted
from kfp_osft.shared.rows.files import count_rows, dataset_files, descriptions, passed_over
from kfp_osft.shared.rows.formats import has_data_extension
from kfp_osft.stages.resolve_dataset.http import fetch_from_http
from kfp_osft.stages.resolve_dataset.hub import fetch_from_hub
from kfp_osft.stages.resolve_dataset.s3 import fetch_from_s3
from kfp_osft.stages.resolve_dataset.splits import split_of

_SUPPORTED = (
    "a path, pvc://path (below pvc_path), s3://bucket/key or a prefix, https:// or http:// of one file, "
    "org/name or hf://org/name of a Hugging Face dataset"
)
#: What today's dataset component writes into its artifact's metadata, in the order in which it is looked at.
_METADATA_KEYS = ("pvc_path", "pvc_dir", "artifact_path")
#: A change of how rows are read makes earlier counts stale.
_READER = 2
_MOST_NAMES_SHOWN = 5
_LONGEST_SHOWN = 500
# Control characters, and halves of UTF-16's pairs, by which Python stands for bytes that are not UTF-8.
_UNUSABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class ResolvedDataset(NamedTuple):
    """Where the dataset lies now, how many rows it has, and where the held-out rows lie (empty without such)."""

    dataset_path: str
    num_rows: int
    validation_path: str = ""


class DatasetArtifact(Protocol):
    """What is used of a KFP Dataset artifact."""

    @property
    def path(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


def resolve(
    dataset_uri: str,
    dataset_split: str,
    pvc_path: str,
    dataset: DatasetArtifact | None,
    validation_uri: str = "",
    validation_uri_split: str = "validation",
) -> ResolvedDataset:
    """Brings the dataset, and held-out rows where they are given, into the workspace and counts the rows.

    A path is used where it lies. What comes from elsewhere (a Hugging Face dataset, S3, a URL, an artifact outside
    the workspace) is copied to pvc_path/datasets, once for the same revision, ETags or content. The source is asked
    each time whether it has changed; where it cannot be asked, this fails, and takes no earlier copy.

    Args:
        dataset_uri: a path, pvc://path, s3://bucket/key or a prefix, an http(s) URL of one file, org/name or
            hf://org/name[@revision][/config]; or empty.
        dataset_split: split of a Hugging Face dataset, of a folder that DatasetDict.save_to_disk wrote, or of one whose
            files are named by their split.
        pvc_path: the workspace.
        dataset: an upstream artifact, or None. Its path is used; where nothing lies there, its metadata's pvc_path,
            pvc_dir or artifact_path, which may be any dataset_uri.
        validation_uri: rows to hold out, as dataset_uri takes it; or empty.
        validation_uri_split: split of validation_uri.

    Raises:
        InputError: none of the two or both, held-out rows that are those to train on, an unknown scheme, nothing
            there, no access, no room, no rows, rows that cannot be read.
    """
    workspace = writable_folder("pvc_path", pvc_path)
    use_workspace(workspace)
    if dataset is not None and dataset_uri:
        raise InputError(
            f"dataset_uri={redacted(dataset_uri)} and an upstream dataset are both given; give one of them"
        )
    with explaining_a_full_disk(workspace, f"pvc_path={workspace}"):
        if dataset is not None:
            path = _from_artifact(dataset, dataset_split, workspace)
        elif dataset_uri.strip():
            path = _from_uri(dataset_uri.strip(), dataset_split, workspace)
        else:
            raise InputError(f"no dataset: give dataset_uri ({_SUPPORTED}), or an upstream dataset artifact")
        rows = _counted_rows(path, workspace)
        log(f"Dataset: {rows:,} rows in {path}")
        held_out = _held_out(validation_uri.strip(), validation_uri_split, path, workspace)
    return ResolvedDataset(str(path), rows, str(held_out or ""))


def _held_out(uri: str, split: str, dataset: Path, workspace: Path) -> Path | None:
    """Brings the held-out rows into the workspace, if there are some."""
    if not uri:
        return None
    try:
        path = _from_uri(uri, split, workspace, all_without_splits=True)
        rows = _counted_rows(path, workspace)
    except InputError as error:
        # They come as any dataset does; only the parameters are other ones.
        message = (
            str(error).replace("dataset_uri=", "validation_uri=").replace("dataset_split=", "validation_uri_split=")
        )
        raise InputError(message) from None
    if path == dataset:
        raise InputError(f"validation_uri={redacted(uri)}, validation_uri_split={split}: names the rows to train on")
    log(f"Held-out rows: {rows:,} in {path}")
    return path


def _from_artifact(artifact: DatasetArtifact, split: str, workspace: Path) -> Path:
    path = Path(artifact.path) if artifact.path else None
    # An empty file is what KFP leaves for an artifact whose data went elsewhere.
    if path and ((path.is_dir() and any(path.iterdir())) or (path.is_file() and path.stat().st_size)):
        return split_of(_into_workspace(path, artifact.uri, workspace), split, workspace)
    if location := location_in(artifact.metadata):
        key, value = location
        log(f"The dataset artifact has no data of its own; its metadata gives {key}={redacted(value)}")
        return _from_uri(value, split, workspace)
    raise InputError(
        f"the dataset artifact has no data at {artifact.path} and no metadata "
        f"{', '.join(_METADATA_KEYS)} that says where it is"
    )


def location_in(metadata: Mapping[str, Any]) -> tuple[str, str] | None:
    """Where the rows of a Dataset artifact lie by its metadata: the key, and a path or a dataset_uri; None if it does
    not say. Only strings say it: what is nested comes from KFP's backend in another form than it was given."""
    for key in _METADATA_KEYS:
        value = metadata.get(key)
        if isinstance(value, str) and value.strip():
            return key, value
    return None


def _into_workspace(path: Path, uri: str, workspace: Path) -> Path:
    """Copies an artifact into the workspace: the other stages' pods do not see this pod's disk."""
    if path.resolve().is_relative_to(workspace.resolve()):
        return path
    files = [*dataset_files(path), *descriptions(path)]
    made_from = {str(file.relative_to(path.parent)): file_digest(file) for file in files}
    folder = workspace / "datasets" / f"artifact-{fingerprint(made_from)[:12]}"
    source = {"uri": redacted(uri)}
    if manifest := read_manifest(folder / MANIFEST, made_from):
        if manifest.get("source") != source:
            write_manifest(folder / MANIFEST, made_from, folder, source=source)
        return folder / path.name
    check_room(workspace, sum(file.stat().st_size for file in files), "the dataset artifact")
    with replacing_folder(folder) as unfinished:
        for file in files:
            copy = unfinished / file.relative_to(path.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            check_free(copy, file)
            shutil.copyfile(file, copy)
        write_manifest(unfinished / MANIFEST, made_from, unfinished, source=source)
    return folder / path.name


def _from_uri(uri: str, split: str, workspace: Path, all_without_splits: bool = False) -> Path:
    """Where the rows lie, fetched if they are not in this file system.

    Raises:
        InputError: also for what no file system or server takes for a name.
    """
    # Servers may repeat it.
    keep_secrets_of(uri)
    named = redacted(uri)
    named = named if len(named) <= _LONGEST_SHOWN else f"{named[:_LONGEST_SHOWN]} ..."
    if _UNUSABLE.search(uri) or _UNUSABLE.search(split):
        raise InputError(
            f"dataset_uri={plain_text(named)}, dataset_split={plain_text(split)}: holds a control character, or what "
            "is not UTF-8"
        )
    try:
        return _found(uri, split, workspace, all_without_splits)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"dataset_uri={named}: {error.strerror or error}") from None


def _found(uri: str, split: str, workspace: Path, all_without_splits: bool) -> Path:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "", uri
    scheme = scheme.lower()
    if scheme == "s3":
        path = fetch_from_s3(f"s3://{rest}", workspace)
    elif scheme in ("http", "https"):
        path = fetch_from_http(uri, workspace)
    elif scheme == "pvc":
        if ".." in Path(rest).parts:
            raise InputError(f"dataset_uri={uri}: leads outside pvc_path={workspace}; allowed: pvc://path below it")
        path = _existing(workspace / rest.lstrip("/"), uri)
    elif scheme == "file" or uri.startswith(("/", "./", "../", "~")):
        path = _existing(Path(os.path.expanduser(rest)), uri)
    elif scheme == "hf":
        return fetch_from_hub(uri, split, workspace)
    elif scheme:
        raise InputError(f"dataset_uri={redacted(uri)}: unknown scheme '{scheme}://'; allowed: {_SUPPORTED}")
    else:
        # Somebody's relative path: it is there, or no Hub dataset is named so.
        relative = next((path for path in (workspace / uri, Path(uri)) if path.exists()), None)
        if not relative and not has_data_extension(uri):
            return fetch_from_hub(uri, split, workspace)
        path = _existing(relative or Path(uri), uri)
    return split_of(path, split, workspace, all_without_splits)


def _existing(path: Path, uri: str) -> Path:
    if not path.exists():
        raise InputError(f"dataset_uri={uri}: there is nothing at {path}")
    return path.absolute()


def _counted_rows(path: Path, workspace: Path) -> int:
    """Counts the rows and checks that each can be read, once for the same files, sizes and times of change."""
    files = dataset_files(path)
    others = [str(file.relative_to(path)) for file in passed_over(path)]
    if others:
        log(f"Skipped in {path}, as they do not have the name of a data file: {listed(others, _MOST_NAMES_SHOWN)}")
    made_from = [_READER, *([str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files)]
    counted = workspace / "datasets" / ".rows" / f"{fingerprint(made_from)[:16]}.json"
    manifest = read_manifest(counted, made_from)
    if manifest:
        return manifest["rows"]
    rows = count_rows(path)
    counted.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(counted, made_from, (), rows=rows)
    return rows
