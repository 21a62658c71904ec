"""Reads a model folder without loading its weights."""

import json
import os
import struct
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.errors import InputError


def model_folder(base_model: str) -> Path | None:
    """The folder of a model on this computer or the PVC; None for a Hugging Face model id."""
    path = Path(os.path.expanduser(base_model))
    return path if base_model.startswith(("/", "./", "../", "~")) or path.exists() else None


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
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError):
        raise InputError(f"{file} is not a safetensors file") from None
    if end != file.stat().st_size:
        raise InputError(f"{file} has {file.stat().st_size} bytes, but its header says {end}: it is truncated")
    return header
