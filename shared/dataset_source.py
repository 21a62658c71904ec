"""resolve_dataset: where a dataset comes from, and bringing it into the workspace."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from kfp_osft.shared.dataset_files import FORMATS, count_rows, dataset_files
from kfp_osft.shared.errors import InputError
from kfp_osft.shared.log import log
from kfp_osft.shared.publish import (
    file_digest,
    fingerprint,
    read_manifest,
    replacing_folder,
    writable_folder,
    write_manifest,
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SUPPORTED = ("a path, pvc://path (below pvc_path), org/name or hf://org/name of a Hugging Face dataset")
#: What today's dataset component writes into its artifact's metadata, in the order in which it is looked at.
_METADATA_KEYS = ("pvc_path", "pvc_dir", "artifact_path")


class ResolvedDataset(NamedTuple):
    """Where the dataset lies now, and how many rows it has."""

    dataset_path: str
    num_rows: int


class DatasetArtifact(Protocol):
    """What is used of a KFP Dataset artifact."""

    path: str
    metadata: Mapping[str, Any]


def resolve(dataset_uri: str, dataset_split: str, pvc_path: str, dataset: DatasetArtifact | None) -> ResolvedDataset:
    """Brings the dataset into the workspace and counts its rows.

    A path is used where it lies. A Hugging Face dataset and an artifact that lies outside the workspace are copied
    to pvc_path/datasets, once for the same revision or content.

    Args:
        dataset_uri: a path, pvc://path, org/name or hf://org/name[@revision][/config]; or empty.
        dataset_split: split of a Hugging Face dataset.
        pvc_path: the workspace.
        dataset: an upstream artifact, or None. Its path is used; where nothing lies there, its metadata's pvc_path,
            pvc_dir or artifact_path, which may be any dataset_uri.

    Raises:
        InputError: none of the two or both, an unknown scheme, nothing there, no rows, rows that cannot be read.
    """
    workspace = writable_folder("pvc_path", pvc_path)
    if dataset is not None and dataset_uri:
        raise InputError(f"dataset_uri={dataset_uri} and an upstream dataset are both given; give one of them")
    if dataset is not None:
        path = _from_artifact(dataset, dataset_split, workspace)
    elif dataset_uri:
        path = _from_uri(dataset_uri, dataset_split, workspace)
    else:
        raise InputError(f"no dataset: give dataset_uri ({_SUPPORTED}), or an upstream dataset artifact")
    rows = count_rows(path)
    log(f"Dataset: {rows:,} rows in {path}")
    return ResolvedDataset(str(path), rows)


def _from_artifact(artifact: DatasetArtifact, split: str, workspace: Path) -> Path:
    path = Path(artifact.path) if artifact.path else None
    # An empty file is what KFP leaves for an artifact whose data went elsewhere.
    if path and (path.is_dir() or path.is_file() and path.stat().st_size):
        return _into_workspace(path, workspace)
    for key in _METADATA_KEYS:
        value = artifact.metadata.get(key)
        if value:
            log(f"The dataset artifact has no data of its own; its metadata says {key}={value}")
            return _from_uri(str(value), split, workspace)
    raise InputError(f"the dataset artifact has no data at {artifact.path} and no metadata "
                     f"{', '.join(_METADATA_KEYS)} that says where it is")


def _into_workspace(path: Path, workspace: Path) -> Path:
    """Copies an artifact into the workspace: the other stages' pods do not see this pod's disk."""
    if path.resolve().is_relative_to(workspace.resolve()):
        return path
    files = dataset_files(path)
    made_from = {str(file.relative_to(path.parent)): file_digest(file) for file in files}
    folder = workspace / "datasets" / f"artifact-{fingerprint(made_from)[:12]}"
    if read_manifest(folder / ".manifest.json", made_from):
        return folder / path.name
    with replacing_folder(folder) as unfinished:
        for file in files:
            copy = unfinished / file.relative_to(path.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        write_manifest(unfinished / ".manifest.json", made_from)
    return folder / path.name


def _from_uri(uri: str, split: str, workspace: Path) -> Path:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "", uri
    if scheme == "pvc":
        return _existing(workspace / rest.lstrip("/"), uri)
    if scheme == "file" or uri.startswith(("/", "./", "../", "~")):
        return _existing(Path(os.path.expanduser(rest)), uri)
    if scheme not in ("", "hf"):
        raise InputError(f"dataset_uri={uri}: unknown scheme '{scheme}://'; allowed: {_SUPPORTED}")
    if not scheme:
        # Somebody's relative path: it is there, or no Hub dataset is named so.
        relative = next((path for path in (workspace / uri, Path(uri)) if path.exists()), None)
        if relative or Path(uri).suffix.lower() in FORMATS:
            return _existing(relative or Path(uri), uri)
    return _from_hub(uri, split, workspace)


def _existing(path: Path, uri: str) -> Path:
    if not path.exists():
        raise InputError(f"dataset_uri={uri}: there is nothing at {path}")
    return path.absolute()


def _from_hub(uri: str, split: str, workspace: Path) -> Path:
    """Fetches a Hugging Face dataset through `datasets`; HF_TOKEN and HF_ENDPOINT are its own to read."""
    name, revision, config = _hub_address(uri)
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    uri = f"dataset_uri={uri}"
    if Path(name).is_dir():
        raise InputError(f"{uri}: `datasets` would take the folder {Path(name).absolute()} for it; "
                         "give the folder's whole path if it is meant, else start in another folder")
    try:
        commit = HfApi().dataset_info(name, revision=revision).sha
    except RepositoryNotFoundError:
        raise InputError(f"{uri}: the Hugging Face Hub has no such dataset, or it is gated and HF_TOKEN is missing "
                         "or may not read it") from None
    except RevisionNotFoundError:
        raise InputError(f"{uri}: the dataset has no revision {revision}") from None
    except HFValidationError as error:
        raise InputError(f"{uri}: is no Hugging Face dataset id: {_first_lines(error)}") from None
    # What the HTTP client raises where there is no Hub, which is another client in other versions.
    except Exception as error:
        raise InputError(f"{uri}: the Hugging Face Hub cannot be reached: {_first_lines(error)}") from None
    made_from = {"hub": name, "commit": commit, "config": config, "split": split}
    folder = workspace / "datasets" / f"{name.replace('/', '--')}-{fingerprint(made_from)[:12]}"
    if read_manifest(folder / ".manifest.json", made_from):
        log(f"{name} at revision {commit} is in the workspace already")
        return folder / "data.jsonl"
    os.makedirs(datasets.config.HF_DATASETS_CACHE, exist_ok=True)
    # A cache of its own: from the common one `datasets` takes an older revision when the Hub fails.
    with TemporaryDirectory(dir=datasets.config.HF_DATASETS_CACHE, ignore_cleanup_errors=True) as cache:
        try:
            rows = datasets.load_dataset(name, config, split=split, revision=commit, cache_dir=cache)
        # datasets raises what its parts raise: OSError, ValueError, RuntimeError, and errors of its own.
        except Exception as error:
            hint = " (HF_TOKEN is missing, or may not read it)" if "gated" in str(error) else ""
            raise InputError(f"{uri}, dataset_split={split}: cannot be loaded: "
                             f"{_first_lines(error)}{hint}") from None
        with replacing_folder(folder) as unfinished:
            rows.to_json(unfinished / "data.jsonl", force_ascii=False)
            write_manifest(unfinished / ".manifest.json", made_from)
    return folder / "data.jsonl"


def _hub_address(uri: str) -> tuple[str, str | None, str | None]:
    """[hf://]org/name[@revision][/config] as name, revision, config; today's org/name:config is read too."""
    head, _, revision_and_config = uri.removeprefix("hf://").partition("@")
    revision, _, config = revision_and_config.partition("/")
    if not revision:
        parts = head.split("/")
        if len(parts) == 3:
            head, config = "/".join(parts[:2]), parts[2]
        elif ":" in head:
            head, _, config = head.partition(":")
    if not _HUB_ID.fullmatch(head):
        raise InputError(f"dataset_uri={uri}: is no Hugging Face dataset id; allowed: {_SUPPORTED}")
    return head, revision or None, config or None


def _first_lines(error: Exception) -> str:
    """Two of them: the second tells what there is ("Please pick one among the available configs: ...")."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
