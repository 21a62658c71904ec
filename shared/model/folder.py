"""Reads a model folder without loading its weights."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import read_json_object
from kfp_osft.shared.reporting.errors import InputError

#: Folder in the workspace: base models that were brought there, each in a folder of a digest.
BASE_MODELS = "base_models"
#: Patterns of the files of a model's weights: safetensors, and what transformers wrote before.
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def is_folder_name(text: str) -> bool:
    """Whether a text can only be a path: absolute, of the user's home, or relative with a dot."""
    return text.startswith(("/", "./", "../", "~"))


def public_name(base_model: str) -> str:
    """A base model as others may read it: of a folder its name alone, since a path names a person's home, or a place
    that goes with the run."""
    return Path(base_model).name if is_folder_name(base_model) else base_model


def model_folder(base_model: str) -> Path | None:
    """The folder of a model on this computer or the PVC; None for a Hugging Face model id."""
    path = Path(os.path.expanduser(base_model))
    return path if is_folder_name(base_model) or path.exists() else None


def safetensors_header(file: Path) -> dict[str, dict[str, Any]]:
    """Names of the tensors in a safetensors file, with dtype, shape and data_offsets (the format's own fields).

    Raises:
        InputError: the file is not a safetensors file, or its size differs from what its header says (truncated).
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except (
        struct.error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        RecursionError,
    ):
        raise InputError(f"{file} is not a safetensors file") from None
    if end != file.stat().st_size:
        raise InputError(f"{file} has {file.stat().st_size} bytes, but its header says {end}: it is truncated")
    return header


def is_whole_model(folder: Path) -> bool:
    """Whether config, index and weights (safetensors) are there, and as long as they say they are."""
    try:
        files = {file.name: file for file in folder.glob("*.safetensors")}
        for file in files.values():
            safetensors_header(file)
        index = folder / "model.safetensors.index.json"
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
        return bool(read_config(folder) and files and files.keys() >= {*named})
    except (InputError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def split_hub_id(base_model: str) -> tuple[str, str | None]:
    """The id of a Hugging Face model and its revision: org/name@revision, or org/name alone."""
    name, _, revision = base_model.partition("@")
    return name, revision or None


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a model's config.json; {} where there is none that can be read."""
    return read_json_object(folder / "config.json")


def config_value(config: Mapping[str, Any], key: str) -> Any:
    """A value of a model's config, or of its text_config, where models of several modalities have it; else None."""
    text = config.get("text_config")
    return config.get(key, text.get(key) if isinstance(text, dict) else None)
