"""The base model before the training: is it there, is it one, and do the parameters fit it."""

import json
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.manifests import file_digest
from kfp_osft.shared.model.folder import model_folder, safetensors_header
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.network.errors import is_lasting, network_cause
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess.oci.model import is_oci_model, pull_model, pulled_digest

_PARAMETER = "training_base_model"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


def fetch_base_model(base_model: str, workspace: Path) -> str:
    """The folder of an oci:// model, pulled into the workspace; other models as they are given."""
    return str(pull_model(base_model, workspace).absolute()) if is_oci_model(base_model) else base_model


def check_base_model(base_model: str) -> dict[str, Any]:
    """Sees that the base model is a language model that can be loaded, without loading its weights.

    Returns:
        What identifies it: digests of its small files with size and time of its weights, the Hub's revision, or
        the digest by which it was pulled.

    Raises:
        InputError: a folder that is missing or no model, an id that the Hub does not give.
    """
    folder = model_folder(base_model)
    if folder is not None:
        _check_folder(folder)
    _from_pretrained("AutoConfig", base_model)
    if folder is None:
        return {"id": base_model, "revision": _fetched_revision(base_model)}
    if digest := pulled_digest(folder):
        return {"oci": digest}
    return {
        "files": {name: file_digest(folder / name) for name in _SMALL_FILES if (folder / name).is_file()},
        "weights": {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in _weight_files(folder)},
    }


def load_tokenizer(base_model: str) -> Any:
    """The model's transformers tokenizer.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    tokenizer = _from_pretrained("AutoTokenizer", base_model)
    # Where its files are missing, transformers makes an empty one for some kinds of model.
    added = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    if not tokenizer.get_vocab().keys() - added:
        raise InputError(
            f"{_PARAMETER}={base_model}: has no tokenizer, its vocabulary is empty (is tokenizer.json missing?)"
        )
    return tokenizer


def check_target_patterns(base_model: str, patterns: list[str]) -> None:
    """Sees that each pattern is part of a weight matrix's name, as mini-trainer matches them.

    Only for a model folder in safetensors: a Hub model's weights are not fetched for it.

    Raises:
        InputError: naming the patterns that match nothing.
    """
    folder = model_folder(base_model)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if not files:
        return
    matrices = [
        name for file in files for name, tensor in safetensors_header(file).items() if len(tensor["shape"]) == 2
    ]
    unmatched = [pattern for pattern in patterns if not any(pattern in name for name in matrices)]
    if unmatched:
        raise InputError(
            f"training_target_patterns: {', '.join(unmatched)} matches no weight matrix of {base_model}; "
            f"its matrices are named as {matrices[0]}"
        )


def check_lr_scheduler(osft: dict[str, Any]) -> None:
    """Builds the learning rate scheduler on a dummy optimizer, as the training will on the real one.

    Raises:
        InputError: the scheduler does not take its arguments, or misses one.
    """
    if "lr_scheduler" not in osft and "lr_scheduler_kwargs" not in osft:
        return
    hide_broken_torchvision()
    import torch
    from transformers import get_scheduler

    name = osft.get("lr_scheduler", "cosine")
    kwargs = osft.get("lr_scheduler_kwargs")
    warmup = osft.get("warmup_steps", 0)
    # transformers drops them without a word.
    if kwargs and name in ("constant", "constant_with_warmup"):
        raise InputError(f"training_lr_scheduler_kwargs={kwargs}: the scheduler {name} takes no arguments")
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=osft["learning_rate"])
    try:
        scheduler = get_scheduler(
            name, optimizer, num_warmup_steps=warmup, num_training_steps=warmup + 10, scheduler_specific_kwargs=kwargs
        )
        # Some arguments are looked at only after the warmup.
        for step in range(warmup, warmup + 11):
            scheduler.lr_lambdas[0](step)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"training_lr_scheduler_kwargs={kwargs or ''}: the scheduler {name} says: {error}") from None


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{_PARAMETER}={folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise InputError(f"{_PARAMETER}={folder}: is no model folder, it has no config.json")
    files = _weight_files(folder)
    if not files:
        raise InputError(f"{_PARAMETER}={folder}: has no weights ({' or '.join(_WEIGHTS)})")
    for file in files:
        if file.suffix == ".safetensors":
            safetensors_header(file)
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(f"{index} is not an index of weight files") from None
        missing = sorted(shards - {file.name for file in files})
        if missing:
            raise InputError(f"{_PARAMETER}={folder}: {', '.join(missing)} is missing, which {index.name} names")


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))


def _fetched_revision(base_model: str) -> str | None:
    """The commit of the Hub model whose config.json was fetched last; it lies in a folder of that name."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(base_model, "config.json")
    return Path(config).parent.name if isinstance(config, str) else None


def _from_pretrained(auto_class: str, base_model: str) -> Any:
    hide_broken_torchvision()
    import transformers

    folder = model_folder(base_model)
    try:
        return getattr(transformers, auto_class).from_pretrained(str(folder or base_model), trust_remote_code=False)
    # transformers raises what its parts raise: OSError, ValueError, KeyError, a tokenizers Exception, ...
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if folder is None and is_lasting(error):
            raise InputError(
                f"{_PARAMETER}={base_model}: the Hugging Face Hub cannot be reached: {network_cause(error)}"
            ) from None
        where = "its folder" if folder else "the Hugging Face Hub (is the id right, is HF_TOKEN needed?)"
        raise InputError(
            f"{_PARAMETER}={base_model}: {auto_class} cannot be loaded from {where}: {first_line}"
        ) from None
