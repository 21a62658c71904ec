"""The layers of an OCI image or artifact, unpacked on top of each other."""

import contextlib
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.progress import Progress

#: Where a KServe modelcar has its model.
MODELS = "models"

# Annotations with the name of a layer that is a single file: ORAS, and the CNCF's ModelPack.
_FILE_NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_IMAGE_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_AT_ONCE = 1 << 20


def unpack_layers(manifest: Mapping[str, Any], blobs: Path, tree: Path, shown: str) -> None:
    """Unpacks the layers in order; a layer's blob is removed once it is unpacked.

    A layer is a tar, plain or compressed with gzip or zstd, or a single file named by an annotation. In an image,
    links and devices outside /models, which belong to its operating system, are skipped.

    Args:
        manifest: of the image or artifact.
        blobs: folder with a file for each layer, named by the hex digits of its digest.
        tree: an empty folder.
        shown: how error messages name the model.

    Raises:
        InputError: a member that points outside the tree, or is a device; a layer that cannot be read.
        OSError: the tree cannot be written.
    """
    layers: Sequence[Mapping[str, Any]] = manifest["layers"]
    is_image = (manifest.get("config") or {}).get("mediaType") in _IMAGE_CONFIGS
    progress = Progress("Unpacked", None, "bytes")
    for number, layer in enumerate(layers, start=1):
        blob = blobs / layer["digest"].removeprefix("sha256:")
        place = f"{shown}: layer {number} of {len(layers)}"
        is_needed_later = any(later["digest"] == layer["digest"] for later in layers[number:])
        annotations = layer.get("annotations") or {}
        file_name = next((annotations[name] for name in _FILE_NAMES if annotations.get(name)), None)
        try:
            if _is_tar(blob):
                _unpack_tar(blob, tree, place, is_image, progress)
            elif file_name:
                target = _inside(tree, file_name, place)
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_symlink():
                    target.unlink()
                (shutil.copyfile if is_needed_later else os.replace)(blob, target)
            else:
                raise InputError(
                    f"{place} is neither a tar nor a named file (mediaType: {layer.get('mediaType', 'none')})"
                )
        except (tarfile.TarError, EOFError, OSError) as error:
            # pyarrow reports a corrupt stream as an OSError without errno.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InputError(f"{place} cannot be read: {error}") from None
        if not is_needed_later:
            blob.unlink(missing_ok=True)


def _unpack_tar(blob: Path, tree: Path, place: str, is_image: bool, progress: Progress) -> None:
    of_this_layer: set[Path] = set()
    with _content(blob) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=_AT_ONCE) as archive:
        # TarFile's attribute, which typeshed lacks.
        archive.copybufsize = _AT_ONCE  # pyright: ignore[reportAttributeAccessIssue]
        for member in archive:
            target = _inside(tree, member.name, place)
            if target == tree:
                continue
            if target.name.startswith(_WHITEOUT):
                _apply_whiteout(target, of_this_layer, f"{place}: {member.name}")
                continue
            is_model = not is_image or target.relative_to(tree).parts[0] == MODELS
            if not (is_model or member.isfile() or member.isdir()):
                continue
            if member.issym():
                _check_target(tree, target, member.linkname, f"{place}: {member.name}")
            try:
                member = tarfile.data_filter(member.replace(name=str(target.relative_to(tree)), deep=False), str(tree))
            except tarfile.FilterError as error:
                raise InputError(f"{place}: {member.name} is rejected: {error}") from None
            if target.is_symlink() or (target.exists() and not (target.is_dir() and member.isdir())):
                _remove(target)
            if member.islnk():
                _link(_inside(tree, member.linkname, place), target, f"{place}: {member.name}")
            else:
                # Filtered above.
                archive.extract(member, tree, filter="fully_trusted")
            of_this_layer |= {target, *target.parents}
            progress.add(member.size)


def _inside(tree: Path, name: str, place: str) -> Path:
    """The path of a member of that name: below the tree, through real folders only.

    Each folder on the way is examined without following it: realpath gives up on a path longer than the kernel allows
    and returns the rest of it unresolved (CVE-2025-4517).
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(f"{place}: {name} is rejected: it points outside the model")
    through = _first_link(tree, path.parts[:-1])
    if through:
        raise InputError(f"{place}: {name} is rejected: its path goes through the link {through}")
    return tree / path


def _first_link(folder: Path, parts: Sequence[str]) -> str | None:
    """The first of these nested names that is a link; a missing one is not."""
    for part in parts:
        folder = folder / part
        try:
            mode = folder.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(mode):
            return part
    return None


def _check_target(tree: Path, link: Path, target: str, said: str) -> None:
    """Checks that a symbolic link stays inside, whatever later members create on its path.

    Hence ".." is allowed only at the beginning, where it goes up from real folders: after a name it would go up from
    wherever a link of that name points.
    """
    parts = PurePosixPath(target).parts
    upwards = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    folders = link.parent.relative_to(tree).parts
    if PurePosixPath(target).is_absolute() or "\0" in target or upwards > len(folders) or ".." in parts[upwards:]:
        raise InputError(f"{said} is rejected: it is a link to {target}, which may point outside the model")
    through = _first_link(tree.joinpath(*folders[: len(folders) - upwards]), parts[upwards:-1])
    if through:
        raise InputError(f"{said} is rejected: it is a link to {target}, which goes through the link {through}")


def _link(source: Path, target: Path, place: str) -> None:
    """Makes a hard link, or a copy where the file system does not support links."""
    if source.is_symlink() or not source.is_file():
        raise InputError(f"{place} is a link to {source.name}, which does not exist")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _apply_whiteout(whiteout: Path, kept: set[Path], shown: str) -> None:
    """Removes what a whiteout of the OCI image specification hides in lower layers.

    Args:
        whiteout: where it would be in the tree.
        kept: paths of the whiteout's own layer, which it does not hide.
        shown: how the error message names it.
    """
    if whiteout.name == _OPAQUE:
        _remove_lower(whiteout.parent, kept, itself=False)
        return
    hidden = whiteout.name.removeprefix(_WHITEOUT)
    if hidden in ("", ".", ".."):
        raise InputError(f"{shown} is rejected: a whiteout must name a file")
    _remove_lower(whiteout.with_name(hidden), kept, itself=True)


def _remove_lower(path: Path, kept: set[Path], itself: bool) -> None:
    """Removes what lower layers put there; a whiteout does not hide files of its own layer."""
    if path.is_dir() and not path.is_symlink():
        for child in list(path.iterdir()):
            _remove_lower(child, kept, itself=True)
        if itself and path not in kept:
            path.rmdir()
    elif itself and path not in kept:
        path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_tar(blob: Path) -> bool:
    try:
        with _content(blob) as stream:
            block = stream.read(tarfile.BLOCKSIZE)
    # Another kind of file that happens to begin like a compressed one.
    except OSError:
        return False
    if len(block) == tarfile.BLOCKSIZE and not any(block):
        # A tar without members: a layer in which nothing changed.
        return True
    with contextlib.suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        return True
    return False


@contextlib.contextmanager
def _content(blob: Path) -> Iterator[IO[bytes]]:
    """The blob's content, decompressed while it is read."""
    import pyarrow

    with blob.open("rb") as file:
        start = file.read(4)
    compression = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    with pyarrow.input_stream(str(blob), compression=compression, buffer_size=_AT_ONCE) as stream:
        yield stream
