"""The base model before the training: is it there, is it one, and do the parameters fit it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.manifests import file_digest, sampled_digest
from kfp_osft.shared.model.folder import WEIGHT_FILES, model_folder, safetensors_header
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.s3.store import SCHEME
from kfp_osft.stages.preprocess.hub_model import HubModel, fetch_hub_weights, find_hub_model
from kfp_osft.stages.preprocess.oci.model import is_oci_model, pull_model, pulled_digest
from kfp_osft.stages.preprocess.s3_model import fetch_s3_model

_PARAMETER = "training_base_model"
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


class BaseModel(NamedTuple):
    """A base model that lies in a folder of this computer or of the workspace.

    Attributes:
        name: what people know it by: a Hub id, an oci:// or s3:// URI, or its path.
        folder: where it is. Of a Hub model the weights are missing until fetch_weights.
        hub: repository and weight files on the Hugging Face Hub; None for other models.
    """

    name: str
    folder: Path
    hub: HubModel | None = None


def find_base_model(base_model: str, workspace: Path, trust_remote_code: bool = False) -> BaseModel:
    """The base model in a folder: a model's own, an oci:// or s3:// model brought into the workspace, or the small
    files of a Hub model at the commit that its id or id@revision means now.

    Raises:
        InputError: there is none, naming the parameter.
    """
    if is_oci_model(base_model):
        return BaseModel(base_model, pull_model(base_model, workspace).absolute())
    if base_model.startswith(SCHEME):
        return BaseModel(base_model, fetch_s3_model(base_model, workspace, trust_remote_code).absolute())
    folder = model_folder(base_model)
    if folder is not None:
        return BaseModel(str(folder.absolute()), folder.absolute())
    hub = find_hub_model(base_model, workspace, trust_remote_code)
    return BaseModel(hub.name, hub.folder, hub)


def fetch_weights(model: BaseModel) -> None:
    """Brings the weights of a Hub model beside its small files.

    Raises:
        InputError: the Hub does not give them, or they are not whole.
    """
    if model.hub is not None:
        fetch_hub_weights(model.hub)
        _check_weights(model)


def check_base_model(model: BaseModel, trust_remote_code: bool = False) -> dict[str, Any]:
    """Sees that the base model is a language model that can be loaded, without loading its weights.

    Returns:
        What identifies it: digests of its small files and of samples of its weights; the Hub's id and commit; or the
        digest by which it was pulled.

    Raises:
        InputError: a folder that is missing or not a model.
    """
    if model.hub is None:
        _check_folder(model)
    _from_pretrained("AutoConfig", model, trust_remote_code)
    if model.hub is not None:
        return {"id": model.hub.name, "revision": model.hub.commit}
    if digest := pulled_digest(model.folder):
        return {"oci": digest}
    return {
        "files": {name: file_digest(model.folder / name) for name in _SMALL_FILES if (model.folder / name).is_file()},
        "weights": {file.name: [file.stat().st_size, sampled_digest(file)] for file in _weight_files(model.folder)},
    }


def load_tokenizer(model: BaseModel, trust_remote_code: bool = False) -> Any:
    """The model's transformers tokenizer.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    tokenizer = _from_pretrained("AutoTokenizer", model, trust_remote_code)
    # Where its files are missing, transformers makes an empty one for some kinds of model.
    added = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    if not tokenizer.get_vocab().keys() - added:
        raise InputError(
            f"{_PARAMETER}={model.name}: has no tokenizer, its vocabulary is empty (is tokenizer.json missing?)"
        )
    return tokenizer


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
            getattr(scheduler, "lr_lambdas")[0](step)  # noqa: B009 - of LambdaLR, not of all schedulers
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"training_lr_scheduler_kwargs={kwargs or ''}: the scheduler {name} says: {error}") from None


def _check_folder(model: BaseModel) -> None:
    if not model.folder.is_dir():
        found = "a file, not the folder of a model" if model.folder.exists() else "no such folder"
        raise InputError(f"{_PARAMETER}={model.name}: {found}")
    if not (model.folder / "config.json").is_file():
        raise InputError(f"{_PARAMETER}={model.name}: not a model folder, it has no config.json")
    _check_weights(model)


def _check_weights(model: BaseModel) -> None:
    """All weight files are there and as long as they say."""
    files = _weight_files(model.folder)
    if not files:
        raise InputError(f"{_PARAMETER}={model.name}: has no weights ({' or '.join(WEIGHT_FILES)})")
    for file in files:
        if file.suffix == ".safetensors":
            safetensors_header(file)
    for index in model.folder.glob("*.index.json"):
        try:
            shards = set(map(str, json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{index} is not an index of weight files") from None
        missing = sorted(shards - {file.name for file in files})
        # A Hub model may have an index of another format beside the files that were fetched.
        if missing and (model.hub is None or index.name == "model.safetensors.index.json"):
            raise InputError(f"{_PARAMETER}={model.name}: {', '.join(missing)} is missing, which {index.name} names")


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for pattern in WEIGHT_FILES for file in folder.glob(pattern))


def _from_pretrained(auto_class: str, model: BaseModel, trust_remote_code: bool) -> Any:
    hide_broken_torchvision()
    import transformers

    try:
        # Told, so that transformers does not ask on the terminal.
        return getattr(transformers, auto_class).from_pretrained(model.folder, trust_remote_code=trust_remote_code)
    # transformers raises what its parts raise: OSError, ValueError, KeyError, a tokenizers Exception, ...
    except Exception as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise InputError(
                f"{_PARAMETER}={model.name}: its {auto_class.removeprefix('Auto').lower()} is Python code beside the "
                "model; training_trust_remote_code=True runs it, if you trust whoever wrote it"
            ) from None
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{_PARAMETER}={model.name}: {auto_class} cannot be loaded from its folder: {first_line}"
        ) from None
