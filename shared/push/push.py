"""Pushes a model to where it outlives the run: S3, the Hugging Face Hub or an OCI registry."""

from collections.abc import Callable
from pathlib import Path

from kfp_osft.shared.model.folder import safetensors_header
from kfp_osft.shared.oci import registry
from kfp_osft.shared.push.destination import HUB_SCHEME, check_destination, scheme_of
from kfp_osft.shared.push.hub import push_to_hub
from kfp_osft.shared.push.modelcar import push_modelcar
from kfp_osft.shared.push.s3 import push_to_s3
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.sizes import size_text
from kfp_osft.shared.s3 import store

_PATTERNS = ("*", "additional_chat_templates/*")
# Each gets the folder, its files by name, the URI and how messages begin; and returns the place.
_PUSH: dict[str, Callable[[Path, dict[str, Path], str, str], str]] = {
    store.SCHEME: push_to_s3,
    HUB_SCHEME: push_to_hub,
    registry.SCHEME: push_modelcar,
}


def push_model(model: Path, uri: str, parameter: str) -> str:
    """Pushes a model, whole or not at all: until the end nobody can take for a model what is there.

    A push that was interrupted goes on with what is missing, and one of the same model sends nothing. What another
    push left under the same name is replaced.

    Args:
        model: folder with config.json and weights; what is hidden or lies deeper stays behind.
        uri: s3://bucket/prefix, hf://org/name (made private where there is none) or oci://registry/repository:tag.
        parameter: where the URI was given, for messages.

    Returns:
        The place: the URI, with the commit of the Hub's repository, or the digest of the image.

    Raises:
        InputError: not a model, or what check_destination raises; a server that refuses it or does not answer.
    """
    files = _files(model, parameter)
    check_destination(parameter, uri)
    size = sum(file.stat().st_size for file in files.values())
    log(f"Pushing {model}, {size_text(size)} in {len(files)} files, to {uri}")
    place = _PUSH[scheme_of(parameter, uri)](model, files, uri, parameter)
    log(f"The model is at {place}")
    return place


def _files(model: Path, parameter: str) -> dict[str, Path]:
    files = {
        str(file.relative_to(model)): file
        for pattern in _PATTERNS
        for file in sorted(model.glob(pattern))
        if file.is_file() and not file.name.startswith(".")
    }
    weights = [file for name, file in files.items() if name.endswith((".safetensors", ".bin"))]
    if "config.json" not in files or not weights:
        raise InputError(f"{parameter}: {model} is not a model folder, it has no config.json or no weights")
    for file in weights:
        if file.suffix == ".safetensors":
            safetensors_header(file)
    return files
