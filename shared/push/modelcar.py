"""Pushes a model as a modelcar: an image with the model below /models, as KServe serves oci:// models."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from kfp_osft.shared.files.leftovers import remove_leftovers
from kfp_osft.shared.oci.base_image import BASE_VARIABLE, base_image
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE
from kfp_osft.shared.oci.registry import SCHEME, Registry
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.sizes import size_text

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_WEIGHTS = (".safetensors", ".bin")
# overlayfs stacks 127 at most, the base image's among them.
_MOST_LAYERS = 100
_UNFINISHED = ".push-"


def push_modelcar(model: Path, files: dict[str, Path], uri: str, parameter: str) -> str:
    """Puts the model on top of the base image and pushes both. See push_model.

    Each file of weights is a layer of its own, so that a push that was interrupted, or a second one, sends only what
    the registry does not have. The same model makes the same image. Its layers lie on the disk until they are pushed.
    """
    target = Registry(uri, os.environ.get(SECRET_VARIABLE), parameter)
    place = model.resolve().parent
    place = place if os.access(place, os.W_OK) else Path(tempfile.gettempdir())
    size = sum(file.stat().st_size for file in files.values())
    if size > (free := shutil.disk_usage(place).free):
        raise InputError(
            f"{parameter}={uri}: the image's layers need {size_text(size)} in {place} meanwhile, which has "
            f"{size_text(free)} free"
        )
    remove_leftovers(place.glob(f"{_UNFINISHED}*"))
    layout = place / f"{_UNFINISHED}{uuid.uuid4().hex[:8]}"
    try:
        layout.mkdir()
        digest = _write_image(layout, _base_image(layout), _layers(files))
        target.push(layout)
    finally:
        shutil.rmtree(layout, ignore_errors=True)
    reference = target.reference
    return f"{SCHEME}{reference.host}/{reference.repository}:{reference.tag}@{digest}"


def _base_image(layout: Path) -> dict[str, Any]:
    """Pulls the base image into the layout; returns its manifest there."""
    base = base_image()
    log(f"The model goes on top of the image {base.reference.host}/{base.reference.repository} ({BASE_VARIABLE})")
    digest, manifest = base.image(base.digest())
    base.copy(digest, layout, sum(layer["size"] for layer in manifest["layers"]))
    # In OCI's format, whatever the registry has.
    (described,) = json.loads((layout / "index.json").read_text(encoding="utf-8"))["manifests"]
    return _read(layout, described)


def _layers(files: Mapping[str, Path]) -> list[dict[str, Path]]:
    """The files of each layer by name: the small ones together, then the weights."""
    weights = [name for name in files if name.endswith(_WEIGHTS)]
    at_once = -(-len(weights) // _MOST_LAYERS)
    groups = [weights[begin : begin + at_once] for begin in range(0, len(weights), at_once)]
    small = [name for name in files if name not in weights]
    return [{name: files[name] for name in group} for group in (small, *groups)]


def _write_image(layout: Path, base: Mapping[str, Any], layers: Sequence[Mapping[str, Path]]) -> str:
    """Adds the layers to the base image in the layout; returns the digest of the new image."""
    config = _read(layout, base["config"])
    # What a base image says of itself is not true of the model.
    config.get("config", {}).pop("Labels", None)
    described = []
    for files in layers:
        layer = _write_layer(layout, files)
        described.append(layer)
        # Of a layer that is not compressed, the digest of its content is its own.
        config["rootfs"]["diff_ids"].append(layer["digest"])
        if "history" in config:
            config["history"].append({"created_by": "kfp-osft push", "comment": ", ".join(files)[:200]})
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _write(layout, config, _CONFIG),
        "layers": [*base["layers"], *described],
    }
    image = _write(layout, manifest, _MANIFEST)
    named = {**image, "annotations": {"org.opencontainers.image.ref.name": "model"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}), encoding="utf-8")
    return image["digest"]


def _write_layer(layout: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """A tar of the files below /models; the same files make the same bytes."""
    unfinished = layout / "layer"
    with unfinished.open("wb") as file:
        written = _Hashed(file)
        with tarfile.open(fileobj=written, mode="w|") as archive:
            for folder in sorted({str(Path("models", name).parent) for name in files} | {"models"}):
                member = _member(folder, 0o755)
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            for name, source in files.items():
                member = _member(f"models/{name}", 0o644)
                member.size = source.stat().st_size
                with source.open("rb") as content:
                    archive.addfile(member, content)
    digits = written.digest.hexdigest()
    size = unfinished.stat().st_size
    os.replace(unfinished, layout / "blobs" / "sha256" / digits)
    return {"mediaType": _LAYER, "digest": f"sha256:{digits}", "size": size}


def _member(name: str, mode: int) -> tarfile.TarInfo:
    # The rest is nobody's: root, and the beginning of time.
    member = tarfile.TarInfo(name)
    member.mode = mode
    return member


class _Hashed(io.RawIOBase):
    """Hashes what is written to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)


def _read(layout: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    blob = layout / "blobs" / "sha256" / described["digest"].removeprefix("sha256:")
    return json.loads(blob.read_text(encoding="utf-8"))


def _write(layout: Path, content: Mapping[str, Any], media_type: str) -> dict[str, Any]:
    written = json.dumps(content).encode()
    digits = hashlib.sha256(written).hexdigest()
    (layout / "blobs" / "sha256" / digits).write_bytes(written)
    return {"mediaType": media_type, "digest": f"sha256:{digits}", "size": len(written)}
