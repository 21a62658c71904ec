"""Is a checkpoint a whole model: what it must hold, and what its weights must be."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.model.folder import safetensors_header
from kfp_osft.shared.reporting.errors import InputError

_INDEX = "model.safetensors.index.json"
# Any of them is a vocabulary.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# 64 MiB at most are read of a model, however large.
_SAMPLED_TENSORS = 64
_SAMPLED_BYTES = 1 << 20


def problem_of(
    folder: Path, base_shapes: Mapping[str, Sequence[int]], base_vocabulary: int | None = None
) -> str | None:
    """What keeps a checkpoint from being published, in a sentence, or None.

    The order is the one in which mini-trainer writes: what is missing is told, not what follows from it.

    Args:
        folder: config, tokenizer and safetensors, as transformers reads them.
        base_shapes: shapes of the base model's tensors by name; {} where they are not known.
        base_vocabulary: the base model's vocab_size; a training may enlarge it (mini-trainer does where the tokenizer
            has more tokens).
    """
    try:
        tensors = _tensors(folder)
        config = _json(folder / "config.json")
        _json(folder / "tokenizer_config.json")
        _check_vocabulary(folder)
        _check_shapes(tensors, base_shapes, (base_vocabulary, config.get("vocab_size")))
        _check_numbers(tensors)
    except (InputError, OSError) as error:
        return str(error)
    return None


class _Tensor:
    """One tensor: its file, name, shape, bytes, and whether it can hold NaN."""

    def __init__(self, file: Path, name: str, header: Mapping[str, Any]) -> None:
        self.file, self.name, self.shape = file, name, header["shape"]
        # safetensors' names: F32, BF16, F8_E4M3, ...
        self.is_floating = header["dtype"].startswith(("F", "BF"))
        begin, end = header["data_offsets"]
        self.bytes = end - begin


def _tensors(folder: Path) -> list[_Tensor]:
    """All tensors, sorted by name; every shard is there and holds what the index says."""
    index = folder / _INDEX
    if index.is_file():
        weight_map = _json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{_INDEX} is not an index of weight files")
    else:
        weight_map = None
    shards = sorted(set(weight_map.values())) if weight_map else ["model.safetensors"]
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise InputError(f"{', '.join(missing)} is missing")
    tensors = [
        _Tensor(folder / shard, name, header)
        for shard in shards
        for name, header in safetensors_header(folder / shard).items()
    ]
    if not tensors:
        raise InputError(f"{shards[0]} holds no tensor")
    if weight_map is not None:
        places = {tensor.name: tensor.file.name for tensor in tensors}
        elsewhere = [name for name, shard in weight_map.items() if places.get(name) != shard]
        if elsewhere:
            raise InputError(f"{weight_map[elsewhere[0]]} does not hold {elsewhere[0]}, which {_INDEX} says it does")
    return sorted(tensors, key=lambda tensor: tensor.name)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{file.name} is missing or cut off")
    return content


def _check_vocabulary(folder: Path) -> None:
    found = [folder / name for name in _VOCABULARIES if (folder / name).is_file()]
    if not found:
        raise InputError(f"it has no tokenizer ({', '.join(_VOCABULARIES)})")
    for file in found:
        if file.suffix == ".json":
            _json(file)
        elif not file.stat().st_size:
            raise InputError(f"{file.name} is empty")


def _check_shapes(
    tensors: list[_Tensor], base_shapes: Mapping[str, Sequence[int]], vocabularies: tuple[int | None, int | None]
) -> None:
    for tensor in tensors:
        shape, base = list(tensor.shape), list(base_shapes.get(tensor.name, tensor.shape))
        if shape == base:
            continue
        enlarged = shape[1:] == base[1:] and (base[:1], shape[:1]) == tuple([size] for size in vocabularies)
        if not enlarged:
            raise InputError(f"{tensor.name} has the shape {shape}, in the base model {base}")


def _check_numbers(tensors: list[_Tensor]) -> None:
    """A sample of the tensors, spread over the model. A loss that is NaN once makes all weights NaN."""
    floating = [tensor for tensor in tensors if tensor.is_floating]
    if not floating:
        return
    import torch
    from safetensors import safe_open

    step = max(1, -(-len(floating) // _SAMPLED_TENSORS))
    for tensor in floating[::step]:
        with safe_open(tensor.file, framework="pt") as opened:
            part = sampled_part(tensor.shape, tensor.bytes, _SAMPLED_BYTES)
            sample = opened.get_slice(tensor.name)[part] if part else opened.get_tensor(tensor.name)
        # Formats of 8 bits have no test of their own.
        if not torch.isfinite(sample.to(torch.float32)).all():
            raise InputError(f"{tensor.name} holds NaN or infinite numbers: the training is lost")


def sampled_part(shape: Sequence[int], size: int, limit: int) -> tuple[slice, ...]:
    """Slices of a tensor's first dimensions whose part is at most `limit` bytes, or one number; () is all of it."""
    part = []
    for length in shape:
        if size <= limit:
            break
        row = size // length
        part.append(slice(0, max(1, limit // row)))
        size = row * part[-1].stop
    return tuple(part)
