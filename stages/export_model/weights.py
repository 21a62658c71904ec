"""Writes a trained model's weights as the base model's files are: byte by byte, one tensor at a time, without torch."""

import json
import os
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kfp_osft.shared.files.atomic import replacing_folder, write_json
from kfp_osft.shared.model.folder import safetensors_header
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.stages.export_model.tensor_names import Named, Tensor

INDEX = "model.safetensors.index.json"
_SINGLE_FILE = "model.safetensors"
_COPIED_AT_ONCE = 16 << 20


class BaseWeights(NamedTuple):
    """What is known of the base model's weights.

    Attributes:
        files: name of the file that holds a tensor, by the tensor's name.
        tensors: those whose files are on this computer.
    """

    files: dict[str, str]
    tensors: dict[str, Tensor]


def base_weights(base_model: str, revision: str | None, folder: Path | None) -> BaseWeights | None:
    """The names and files of the base model's tensors; None where they cannot be known without fetching weights.

    Args:
        base_model: path or Hugging Face model id.
        revision: commit of the Hub model.
        folder: as base_model_folder gives it.
    """
    if folder is None:
        return None
    try:
        files = _files_of(folder)
        tensors = tensors_in(folder, files)
    except InputError as error:
        log(f"Warning: the base model's weights cannot be read: {error}")
        return None
    # A folder with weights in another format has none of these files.
    if not files and not Path(base_model).expanduser().exists():
        files = _files_on_the_hub(base_model, revision)
    return BaseWeights(files, tensors) if files else None


def _files_of(folder: Path) -> dict[str, str]:
    index = folder / INDEX
    if index.is_file():
        try:
            return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, LookupError, TypeError, RecursionError):
            raise InputError(f"{index} is not an index of weight files") from None
    single = folder / _SINGLE_FILE
    return dict.fromkeys(safetensors_header(single), single.name) if single.is_file() else {}


def _files_on_the_hub(base_model: str, revision: str | None) -> dict[str, str]:
    """Read from the headers: a few kilobytes of each file."""
    from huggingface_hub import get_safetensors_metadata

    try:
        return dict(get_safetensors_metadata(base_model, revision=revision).weight_map)
    # What the HTTP client raises where there is no Hub, which is another client in other versions.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log(f"The Hugging Face Hub does not give the tensors' names of {base_model}: {reason}")
        return {}


def tensors_in(folder: Path, files: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors of a folder's safetensors files, by name; of files that are not there, none.

    Args:
        folder: a model's.
        files: file names by tensor name; by default those of the folder.

    Raises:
        InputError: a file that is not a safetensors file, or is cut off.
    """
    files = _files_of(folder) if files is None else files
    found = {}
    for name in sorted(set(files.values())):
        file = folder / name
        if not file.is_file():
            continue
        for tensor, header in safetensors_header(file).items():
            begin, end = header["data_offsets"]
            if files.get(tensor) == name:
                start = file.stat().st_size - _data_size(file)
                found[tensor] = Tensor(header["dtype"], tuple(header["shape"]), file, start + begin, end - begin)
    return found


def _data_size(file: Path) -> int:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
    return file.stat().st_size - 8 - length


def are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bytes."""
    if one.size != other.size:
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.offset)
        second.seek(other.offset)
        left = one.size
        while left:
            part = min(left, _COPIED_AT_ONCE)
            if first.read(part) != second.read(part):
                return False
            left -= part
    return True


def write_weights(named: Named, base_files: Mapping[str, str], folder: Path) -> None:
    """Writes the files and their index into a folder.

    A file that would be one of the trained model's as it is becomes a hard link to it where the file system can.

    Args:
        named: the tensors to publish.
        base_files: the base model's file of each tensor; a tensor that has none there stays in the file it is in.
        folder: must exist.
    """
    if not named.is_understood:
        base_files = {}
    shards: dict[str, dict[str, Tensor]] = {}
    for name, tensor in named.tensors.items():
        shards.setdefault(base_files.get(name, tensor.file.name), {})[name] = tensor
    copied = sum(_write_or_link(folder / shard, tensors) for shard, tensors in shards.items())
    if set(shards) != {_SINGLE_FILE}:
        total = sum(tensor.size for tensor in named.tensors.values())
        weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    if copied:
        log(f"{copied / 1e9:,.1f} GB of weights are written to {folder.parent}")


def _write_or_link(place: Path, tensors: Mapping[str, Tensor]) -> int:
    """The bytes that were copied: 0 for a hard link."""
    sources = {tensor.file for tensor in tensors.values()}
    if len(sources) == 1 and tensors_in_file(source := sources.pop()) == dict(tensors):
        try:
            os.link(source, place)
            return 0
        except OSError:
            # Another file system, or one without hard links.
            shutil.copyfile(source, place)
            return place.stat().st_size
    _write_safetensors(place, tensors)
    return place.stat().st_size


def tensors_in_file(file: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file."""
    return tensors_in(file.parent, dict.fromkeys(safetensors_header(file), file.name))


def _write_safetensors(place: Path, tensors: Mapping[str, Tensor]) -> None:
    """In the order of the safetensors library: the widest types first, so that each tensor is aligned."""
    ordered = sorted(tensors.items(), key=lambda item: (-_bits(item[1].dtype), item[0]))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.size
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with place.open("wb") as written:
        written.write(struct.pack("<Q", len(encoded)))
        written.write(encoded)
        for _, tensor in ordered:
            with tensor.file.open("rb") as source:
                source.seek(tensor.offset)
                left = tensor.size
                while left:
                    left -= written.write(source.read(min(left, _COPIED_AT_ONCE)))


def _bits(dtype: str) -> int:
    number = re.search(r"\d+", dtype)
    return int(number[0]) if number else 8


def share_weights(published: Path, checkpoint: Path) -> None:
    """Puts the published weights in the place of the checkpoint's, as hard links, so that they are on the disk once.

    Where that cannot be done (another file system, one without hard links, a folder of somebody else), the checkpoint
    stays as it is.
    """
    weights = sorted(published.glob("*.safetensors"))
    if all(_is_same(file, checkpoint / file.name) for file in weights):
        return
    try:
        with replacing_folder(checkpoint) as unfinished:
            for file in sorted(checkpoint.iterdir()):
                if file.suffix != ".safetensors" and file.name != INDEX:
                    os.link(file, unfinished / file.name)
            for file in weights:
                os.link(file, unfinished / file.name)
            if (published / INDEX).is_file():
                shutil.copyfile(published / INDEX, unfinished / INDEX)
            unfinished.chmod(checkpoint.stat().st_mode)
    except OSError as error:
        log(f"The weights of {checkpoint} stay beside those of {published}: {error.strerror}")


def _is_same(file: Path, other: Path) -> bool:
    return other.is_file() and file.samefile(other)
