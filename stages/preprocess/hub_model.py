"""A base model of the Hugging Face Hub: resolved to a commit once, and fetched at that commit."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kfp_osft.shared.model.folder import safetensors_header, split_hub_id
from kfp_osft.shared.network.errors import is_lasting, network_cause
from kfp_osft.shared.parameters.environment import is_local
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.stages.preprocess.needed_files import needed_files

# How the cache calls a file: by git's digest or, of one in LFS, by that of its content.
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LENGTH_OF_LFS = 64
_MOST_BYTES_READ = 16 << 20


class HubModel(NamedTuple):
    """A model of the Hub at one commit.

    Attributes:
        name: org/name.
        commit: the commit's hash.
        folder: its folder in the cache, which is named like the commit.
        weights: names of its weight files; empty where the Hub could not be asked and the cache's are taken.
        cache: folder of the cache; None for the Hugging Face cache of this computer.
    """

    name: str
    commit: str
    folder: Path
    weights: tuple[str, ...]
    cache: Path | None


def find_hub_model(base_model: str, workspace: Path, trust_remote_code: bool) -> HubModel:
    """Resolves org/name or org/name@revision to a commit, and fetches the small files.

    On a cluster the cache is in the workspace, which the training pods see too; on this computer, where the training
    runs beside it (OSFT_LAUNCHER=local), it is Hugging Face's own. Without the Hub, what is in the cache is taken.

    Raises:
        InputError: the Hub does not give it, and it is not in the cache.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision = split_hub_id(base_model)
    cache = None if is_local() else workspace / ".cache" / "huggingface" / "hub"
    try:
        found = HfApi().model_info(name, revision=revision)
        files = [sibling.rfilename for sibling in found.siblings or []]
        wanted, weights = needed_files(files, trust_remote_code)
        folder = Path(snapshot_download(name, revision=found.sha, cache_dir=cache, allow_patterns=wanted))
        if _drop_damaged(folder, wanted):
            snapshot_download(name, revision=found.sha, cache_dir=cache, allow_patterns=wanted)
        # huggingface_hub writes its listings for the user alone; pods run as different users of one group.
        for listing in folder.parents[1].glob("trees/*.json"):
            listing.chmod(listing.stat().st_mode | 0o060)
        _remember(folder, revision or "main")
        assert found.sha is not None
        return HubModel(name, found.sha, folder, tuple(weights), cache)
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, HFValidationError) as error:
        raise _not_given(base_model, error) from None
    # A Hub that is away, which is another exception with each HTTP client.
    except Exception as error:
        try:
            # One file: huggingface_hub 2 refuses a snapshot without all that is asked for, and weights of other
            # formats never were. Whether ours are whole is looked at with those of all models.
            folder = Path(
                snapshot_download(
                    name, revision=revision, cache_dir=cache, local_files_only=True, allow_patterns="config.json"
                )
            )
        except Exception:
            if is_lasting(error):
                raise InputError(
                    f"training_base_model={base_model}: the Hugging Face Hub cannot be reached: {network_cause(error)}"
                ) from None
            raise _not_given(base_model, error) from None
        log(f"The Hugging Face Hub does not answer; {name} is taken from the cache, commit {folder.name}")
        return HubModel(name, folder.name, folder, (), cache)


def fetch_hub_weights(model: HubModel) -> None:
    """Fetches the weights of the commit; what is there already is not fetched again.

    Raises:
        InputError: the Hub does not give them.
    """
    from huggingface_hub import snapshot_download

    if not model.weights:
        return
    _drop_damaged(model.folder, model.weights)
    log(f"Fetching the weights of {model.name} at commit {model.commit}")
    try:
        snapshot_download(model.name, revision=model.commit, cache_dir=model.cache, allow_patterns=list(model.weights))
    except Exception as error:
        raise _not_given(model.name, error) from None


def _drop_damaged(folder: Path, names: Iterable[str]) -> bool:
    """Removes the files from the cache that are not whole, since huggingface_hub uses whatever is there.

    Args:
        folder: of the commit in the cache.
        names: files of the commit; those that are not there are passed over.
    """
    damaged = [folder / name for name in names if (folder / name).is_file() and not _is_whole(folder / name)]
    for file in damaged:
        log(f"Warning: {file} has changed or was cut since it was fetched: fetching it again")
        file.resolve().unlink()
        file.unlink(missing_ok=True)
    return bool(damaged)


def _is_whole(file: Path) -> bool:
    """By the digest that the cache names a file after, where reading it is cheap; of weights, by their header."""
    if file.suffix == ".safetensors":
        try:
            safetensors_header(file)
        except InputError:
            return False
    blob = file.resolve()
    if not _DIGEST.fullmatch(blob.name) or blob.stat().st_size > _MOST_BYTES_READ:
        # A cache without symbolic links has no blobs.
        return True
    content = blob.read_bytes()
    if len(blob.name) == _LENGTH_OF_LFS:
        return hashlib.sha256(content).hexdigest() == blob.name
    # As git names it.
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == blob.name


def _remember(folder: Path, revision: str) -> None:
    """Notes the commit that a branch or tag meant, where huggingface_hub looks for it without a Hub."""
    if revision != folder.name:
        ref = folder.parents[1] / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(folder.name, encoding="utf-8")


def _not_given(base_model: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        f"training_base_model={base_model}: cannot be fetched from the Hugging Face Hub (is the id right, is HF_TOKEN "
        f"needed?): {reason}"
    )
