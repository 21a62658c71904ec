"""Datasets of the Hugging Face Hub."""

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kfp_osft.shared.files.atomic import replacing_folder
from kfp_osft.shared.files.leftovers import mark_of_this_process, remove_leftovers
from kfp_osft.shared.files.manifests import fingerprint, read_manifest, write_manifest
from kfp_osft.shared.network.errors import is_lasting, network_cause
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.columnar import batch_rows

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_CACHE_PREFIX = "kfp-osft-"
_ROWS_AT_ONCE = 1024
#: A change of how the rows are written makes earlier files stale.
_WRITTEN = 2


def fetch_from_hub(uri: str, split: str, workspace: Path) -> Path:
    """Writes one split of a dataset to workspace/datasets as JSON Lines, once for the same revision.

    `datasets` and huggingface_hub do the work, and read HF_TOKEN and HF_ENDPOINT from the environment.

    Args:
        uri: [hf://]org/name[@revision][/config]; also org/name:config, and the prefix datasets/ of Hub paths.
        split: of the dataset, as load_dataset takes it ("train", "train[:10%]").
        workspace: the workspace folder.

    Raises:
        InputError: no such dataset, revision, configuration or split; closed to HF_TOKEN; a Hub out of reach.
    """
    name, revision, config = _hub_address(uri)
    import datasets
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    uri = f"dataset_uri={uri}"
    if Path(name).is_dir():
        raise InputError(
            f"{uri}: `datasets` would load the folder {Path(name).absolute()} instead; "
            "give the folder's full path if you mean it, otherwise run from another folder"
        )
    try:
        commit = HfApi().dataset_info(name, revision=revision).sha
    except RepositoryNotFoundError:
        raise InputError(
            f"{uri}: the Hugging Face Hub has no such dataset, or it is gated and HF_TOKEN is missing "
            "or may not read it"
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{uri}: the dataset has no revision {revision}") from None
    except HFValidationError as error:
        raise InputError(f"{uri}: is not a Hugging Face dataset id: {_first_lines(error)}") from None
    # What the HTTP client raises where the Hub is out of reach; versions differ in the client.
    except Exception as error:
        cause = network_cause(error) if is_lasting(error) else _first_lines(error)
        raise InputError(f"{uri}: the Hugging Face Hub cannot be reached: {cause}") from None
    made_from = {"hub": name, "commit": commit, "config": config, "split": split, "written": _WRITTEN}
    source = {
        "uri": f"hf://{name}@{commit}" + (f"/{config}" if config else ""),
        "split": split,
        "hub": name,
        "commit": commit,
    }
    folder = workspace / "datasets" / f"{name.replace('/', '--')}-{fingerprint(made_from)[:12]}"
    if read_manifest(folder / ".manifest.json", made_from):
        log(f"{name} at revision {commit} is already in the workspace")
        return folder / "data.jsonl"
    os.makedirs(HF_DATASETS_CACHE, exist_ok=True)
    # A cache of its own: from the common one `datasets` takes an older revision when the Hub fails.
    remove_leftovers(Path(HF_DATASETS_CACHE).glob(f"{_CACHE_PREFIX}*"))
    with TemporaryDirectory(
        prefix=f"{_CACHE_PREFIX}{mark_of_this_process()}", dir=HF_DATASETS_CACHE, ignore_cleanup_errors=True
    ) as cache:
        try:
            rows = datasets.load_dataset(name, config, split=split, revision=commit, cache_dir=cache)
        # datasets raises what its parts raise: OSError, ValueError, RuntimeError, and errors of its own.
        except Exception as error:
            hint = " (HF_TOKEN is missing, or may not read it)" if "gated" in str(error) else ""
            raise InputError(f"{uri}, dataset_split={split}: cannot be loaded: {_reason(error)}{hint}") from None
        with replacing_folder(folder) as unfinished:
            _write_rows(rows, unfinished / "data.jsonl")
            write_manifest(unfinished / ".manifest.json", made_from, unfinished, source=source)
    return folder / "data.jsonl"


def _hub_address(uri: str) -> tuple[str, str | None, str | None]:
    """name, revision and config of an address as fetch_from_hub takes it."""
    address = uri.removeprefix("hf://")
    if address.count("/") > 1:
        address = address.removeprefix("datasets/")
    head, _, revision_and_config = address.partition("@")
    revision, _, config = revision_and_config.partition("/")
    if not revision:
        parts = head.split("/")
        if len(parts) == 3:
            head, config = "/".join(parts[:2]), parts[2]
        elif ":" in head:
            head, _, config = head.partition(":")
    if not _HUB_ID.fullmatch(head):
        raise InputError(
            f"dataset_uri={uri}: is not a Hugging Face dataset id; allowed: [hf://]org/name[@revision][/config]"
        )
    return head, revision or None, config or None


def _write_rows(rows: Any, path: Path) -> None:
    """Writes a dataset's rows as JSON Lines, without columns of bytes (images, audio): only text is trained on."""
    table = rows.with_format("arrow")
    binary = [field.name for field in table.features.arrow_schema if _holds_bytes(field.type)]
    if binary:
        log(f"Columns left out because they are not text: {', '.join(binary)}")
        table = table.remove_columns(binary)
    with path.open("w", encoding="utf-8") as file:
        for piece in table.iter(_ROWS_AT_ONCE):
            for batch in piece.to_batches():
                for row in batch_rows(batch):
                    # Times and decimal numbers have no form in JSON but text.
                    file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str) + "\n")


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if getattr(kind, "storage_type", None) is not None:
        return _holds_bytes(kind.storage_type)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    return types.is_nested(kind) and any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))


def _reason(error: Exception) -> str:
    """What load_dataset found wrong: its own words are general, the cause's are not."""
    cause = error.__cause__
    if cause is None:
        return _first_lines(error)
    # datasets.table.CastError
    found, first = (set(getattr(cause, f"{name}_column_names", ())) for name in ("table", "requested"))
    if found == first:
        return f"{_first_lines(error)}: {_first_lines(cause)}"
    differences = [
        f"{words} {', '.join(map(repr, sorted(names)))}"
        for words, names in (("lacks", first - found), ("also has", found - first))
        if names
    ]
    return (
        f"its files have different columns: one of them {' and '.join(differences)}, unlike the first; name the files "
        "that belong together as a configuration in the dataset's README.md, or give a folder or URL of them"
    )


def _first_lines(error: BaseException) -> str:
    """The first two: the second lists the choices ("Please pick one among the available configs: ...")."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
