"""Writes the folder of a published model, all but its card and osft_run.json."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.atomic import write_json
from kfp_osft.shared.files.manifests import file_digest
from kfp_osft.shared.reporting.log import log
from kfp_osft.stages.export_model.carried_files import carried_over
from kfp_osft.stages.export_model.model_config import loadable_tokenizer_config, published_config
from kfp_osft.stages.export_model.tensor_names import Named, floating_dtype, in_base_form
from kfp_osft.stages.export_model.weights import INDEX, BaseWeights, are_equal, tensors_in, write_weights

_CONFIG, _TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"


class BaseModel(NamedTuple):
    """The base model, as far as it is at hand.

    Attributes:
        name: as a person knows it: path, Hugging Face id or oci:// reference.
        folder: with its small files; None where it is not there.
        weights: names, files and, of files that are there, tensors; None where the names cannot be known.
        digests: sha256 of its small files when the training began, by name; {} where they are not known.
    """

    name: str
    folder: Path | None
    weights: BaseWeights | None
    digests: Mapping[str, str]


def write_model(checkpoint: Path, base: BaseModel, folder: Path) -> None:
    """Fills an empty folder with the checkpoint's model: weights, config and tokenizer in the base model's form.

    Raises:
        InputError: weight files that are not safetensors.
    """
    trained_config = _json(checkpoint / _CONFIG)
    named = _named_tensors(checkpoint, trained_config, base)
    _copy_small_files(checkpoint, folder)
    if base.folder is not None:
        _carry_over(base, base.folder, folder)
    write_weights(named, base.weights.files if base.weights else {}, folder)
    base_config = _base_config(base) if named.is_understood else None
    config = published_config(
        trained_config,
        base_config,
        dtype=floating_dtype(named.tensors.values()),
        is_untied=named.is_untied,
    )
    if base.folder is not None and config == base_config:
        shutil.copyfile(base.folder / _CONFIG, folder / _CONFIG)
    else:
        write_json(folder / _CONFIG, config)
    tokenizer_config = folder / _TOKENIZER_CONFIG
    loadable = loadable_tokenizer_config(before := _json(tokenizer_config))
    if loadable != before:
        write_json(tokenizer_config, loadable)


def _named_tensors(checkpoint: Path, config: Mapping[str, Any], base: BaseModel) -> Named:
    trained = tensors_in(checkpoint)
    named = in_base_form(
        trained,
        base.weights.files if base.weights else (),
        base.weights.tensors if base.weights else {},
        model_type=config.get("model_type", ""),
        is_tied=config.get("tie_word_embeddings"),
        are_equal=are_equal,
    )
    if not named.is_understood:
        log(
            f"Warning: the trained model's tensors are not those of {base.name}; they keep the names that the trainer "
            "gave them"
        )
    if named.is_untied:
        log("Warning: the base model's head is its embedding, and the training made two of them: both are published")
    if named.left_out:
        size = sum(trained[name].size for name in named.left_out)
        log(f"Left out, as the base model has no such tensors ({size / 1e6:,.1f} MB): {_some(named.left_out)}")
    if named.of_base:
        log(f"Taken from the base model, as the trainer saves no such tensors: {_some(named.of_base)}")
    if named.missing:
        log(f"Warning: the base model has tensors that the trainer did not save: {_some(named.missing)}")
    return named


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _base_config(base: BaseModel) -> dict[str, Any] | None:
    """The base model's config; None where it is not there, or not the one that was trained."""
    if base.folder is None or not (file := base.folder / _CONFIG).is_file() or _has_changed(base, _CONFIG, file):
        return None
    try:
        return _json(file)
    except ValueError:
        return None


def _has_changed(base: BaseModel, name: str, file: Path) -> bool:
    """Whether a small file of the base model is not the one that was trained with, which is logged."""
    if name not in base.digests or file_digest(file) == base.digests[name]:
        return False
    log(f"Warning: {file} has changed since the training; the model goes with what the trainer saved, if anything")
    return True


def _copy_small_files(checkpoint: Path, folder: Path) -> None:
    for file in sorted(checkpoint.rglob("*")):
        place = folder / file.relative_to(checkpoint)
        if file.is_dir():
            place.mkdir(exist_ok=True)
        elif file.suffix != ".safetensors" and file.name not in (INDEX, _CONFIG):
            shutil.copyfile(file, place)


def _carry_over(base: BaseModel, base_folder: Path, folder: Path) -> None:
    """Puts the base model's own tokenizer files in place of those that mini-trainer wrote anew from them (which hold
    its paths and its version's names), and the generation settings and the licence, which it does not save."""
    for name, file in carried_over(base_folder).items():
        if not _has_changed(base, name, file):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / name)


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
