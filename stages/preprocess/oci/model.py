"""A base model in an OCI registry: pulled into the workspace, whole or not at all."""

import os
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import read_json_object, replacing_folder
from kfp_osft.shared.files.manifests import read_manifest, write_manifest
from kfp_osft.shared.files.ownership import OWNER_FILE, owned
from kfp_osft.shared.model.folder import BASE_MODELS, WEIGHT_FILES
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE
from kfp_osft.shared.oci.registry import SCHEME, Registry, size_of
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.listing import listed
from kfp_osft.shared.reporting.log import log
from kfp_osft.stages.preprocess.oci.layers import MODELS, unpack_layers

_FORMAT = 1
_PARAMETER = "training_base_model"
_MANIFEST = "manifest.json"
# Weights for other programs, which transformers does not load here.
_NOT_NEEDED = (".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".tflite")
_NEEDED_FOLDERS = ("additional_chat_templates",)
# Size of an unpacked layer over that of a compressed one: weights hardly compress.
_UNPACKED = 1.5
_LISTED = 10


def is_oci_model(base_model: str) -> bool:
    """Whether the text begins with oci://, so that pull_model takes it; it may still be malformed."""
    return base_model.startswith(SCHEME)


def pull_model(base_model: str, workspace: Path) -> Path:
    """Pulls the model into the workspace, unless it is there already, and returns its folder.

    The model is the folder with config.json and weights, below /models (a modelcar) or else anywhere in the image or
    artifact. Only files that transformers loads are kept. The credentials come from OCI_PULL_SECRET_MODEL_DOWNLOAD.

    The folder is BASE_MODELS/<start of the digest>/<name of the repository>: a tag that moves gets another one, so that
    no training loses the model it is reading.

    Args:
        base_model: oci://registry/repository:tag or @sha256:digest.
        workspace: existing folder.

    Raises:
        InputError: a malformed reference or malformed credentials, no access, no such model, no space, or content
            that is corrupt, points outside its folder, or is not exactly one model.
    """
    registry = Registry(base_model, os.environ.get(SECRET_VARIABLE), _PARAMETER)
    digest = registry.digest()
    place = workspace / BASE_MODELS / digest.removeprefix("sha256:")[:12]
    model = place / registry.reference.name
    # Two runs in one workspace do not pull the same model at the same time: the second one finds it there.
    with owned(place / OWNER_FILE, "preprocess"):
        if pulled_digest(model) == digest:
            log(f"{base_model} is already in {model}")
            return model
        image, manifest = registry.image(digest)
        layers, tree = place / "layers", place / "unpacked"
        shutil.rmtree(tree, ignore_errors=True)
        _check_space(manifest, layers / "blobs", base_model)
        size = sum(layer["size"] for layer in manifest["layers"])
        log(f"Pulling {base_model}, {digest}: {size / 1e9:.2f} GB in {len(manifest['layers'])} layers")
        registry.copy(image, layers, size)
        tree.mkdir()
        try:
            unpack_layers(manifest, layers / "blobs" / "sha256", tree, f"{_PARAMETER}={base_model}")
            found = _find_model(tree, base_model)
            (place / _MANIFEST).unlink(missing_ok=True)
            with replacing_folder(model) as unfinished:
                _move_model(found, tree, unfinished, base_model)
            write_manifest(place / _MANIFEST, _made_from(digest), model, reference=base_model)
        except OSError as error:
            raise InputError(f"{_PARAMETER}={base_model}: cannot be unpacked in {place}: {error.strerror}") from None
        except InputError:
            shutil.rmtree(layers)
            raise
        finally:
            shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(layers)
    log(f"The model is in {model}: {size_of(model) / 1e9:.2f} GB")
    return model


def pulled_digest(folder: Path) -> str | None:
    """The digest that the folder's model was pulled by; None if it was not pulled, or was changed since."""
    path = folder.parent / _MANIFEST
    try:
        digest = read_json_object(path)["made_from"]["digest"]
        manifest = read_manifest(path, _made_from(digest))
        return digest if manifest and manifest["made"]["folder"] == folder.name else None
    except (LookupError, TypeError):
        return None


def _made_from(digest: str) -> dict[str, Any]:
    return {"format": _FORMAT, "digest": digest}


def _check_space(manifest: Mapping[str, Any], blobs: Path, base_model: str) -> None:
    """Each layer is removed once unpacked, so this takes room for their content and for the largest layer again."""
    sizes = {
        layer["digest"]: layer["size"] * (_UNPACKED if _is_compressed(layer) else 1) for layer in manifest["layers"]
    }
    needed = sum(sizes.values()) + max(sizes.values(), default=0) - size_of(blobs)
    free = shutil.disk_usage(blobs.parents[1]).free
    if needed > free:
        raise InputError(
            f"{_PARAMETER}={base_model}: pulling and unpacking it needs {needed / 1e9:.2f} GB in the "
            f"workspace ({_UNPACKED} times the compressed layers, the other layers once, and the largest layer "
            f"again); {free / 1e9:.2f} GB are free"
        )


def _is_compressed(layer: Mapping[str, Any]) -> bool:
    return str(layer.get("mediaType", "")).endswith(("gzip", "zstd"))


def _find_model(tree: Path, base_model: str) -> Path:
    """The one folder with config.json and weights.

    Raises:
        InputError: there is none, or more than one.
    """
    contents = {Path(folder): names for folder, _, names in os.walk(tree)}
    models = _model_folders(contents, tree / MODELS)
    if len(models) == 1:
        return models[0]
    if models:
        names = sorted(f"/{folder.relative_to(tree)}" for folder in models)
        raise InputError(
            f"{_PARAMETER}={base_model}: contains {len(models)} models: {listed(names, _LISTED)}; "
            "give an image with exactly one"
        )
    files = sorted(f"/{(folder / name).relative_to(tree)}" for folder, names in contents.items() for name in names)
    raise InputError(
        f"{_PARAMETER}={base_model}: contains no model: no folder in it has config.json and weights in "
        f"safetensors or .bin; it contains {listed(files, _LISTED) or 'no files'}"
    )


def _model_folders(contents: Mapping[Path, list[str]], preferred: Path) -> list[Path]:
    """The folders with config.json and weights: those below `preferred`, or else all."""
    found = [folder for folder, names in contents.items() if "config.json" in names and any(map(_is_weights, names))]
    found = [folder for folder in found if preferred in (folder, *folder.parents)] or found
    # Below a model there may be parts of it, or the same model in another format.
    return [folder for folder in found if not set(found) & set(folder.parents)]


def _is_weights(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WEIGHT_FILES)


def _move_model(found: Path, tree: Path, target: Path, base_model: str) -> None:
    """Moves the files that transformers loads; a link is replaced by the file it points to."""
    sources = {
        file.relative_to(found): file.resolve(strict=True) for file in sorted(found.rglob("*")) if file.is_file()
    }
    moved: dict[Path, Path] = {}
    left_out = []
    for name, source in sources.items():
        if (len(name.parts) > 1 and name.parts[0] not in _NEEDED_FOLDERS) or name.suffix in _NOT_NEEDED:
            left_out.append(str(name))
            continue
        if not source.is_relative_to(tree.resolve()):
            raise InputError(
                f"{_PARAMETER}={base_model}: {name} is rejected: it is a link that points outside the model"
            )
        place = target / name
        place.parent.mkdir(exist_ok=True)
        if source in moved:
            shutil.copyfile(moved[source], place)
        else:
            os.replace(source, place)
            moved[source] = place
        # The training pods may run as another user.
        place.chmod(place.stat().st_mode | 0o044)
    if left_out:
        log(f"Left out, as training does not read them: {listed(left_out, _LISTED)}")
