"""Names of files for the keys of objects: each key gets a file of its own, on every file system."""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

# Linux allows 255 bytes; a digest is to fit in.
_LONGEST_NAME = 200
_DIGITS = 8


def file_names(keys: Iterable[str]) -> dict[str, str]:
    """Relative paths for keys, which are relative to their prefix.

    A key is its file's path where it can be. A part of the key's digest makes another path of it where a name is too
    long, or where the file would be another key's: "a//b" and "a/./b" are the path "a/b", "A" and "a", or two forms of
    one accented letter, are one file on some file systems, and no path is a file and a folder.

    Args:
        keys: without "..". The same keys get the same paths in whatever order they come.
    """
    paths: dict[str, str] = {}
    files: set[str] = set()
    folders: set[str] = set()
    for key in sorted(keys):
        parts = [_shortened(part) for part in key.split("/") if part not in ("", ".")]
        taken = next((place for place in range(1, len(parts)) if _folded(parts[:place]) in files), None)
        if taken is None and _folded(parts) in files | folders:
            taken = len(parts)
        if taken is not None:
            parts[taken - 1] = _with_digest(parts[taken - 1], key)
        files.add(_folded(parts))
        folders |= {_folded(parts[:place]) for place in range(1, len(parts))}
        paths[key] = str(PurePosixPath(*parts))
    return paths


def _folded(parts: Sequence[str]) -> str:
    """What paths have in common that one file system or another takes for the same."""
    return "/".join(unicodedata.normalize("NFC", part).casefold().rstrip(". ") for part in parts)


def _shortened(part: str) -> str:
    if len(part.encode(errors="surrogatepass")) <= _LONGEST_NAME:
        return part
    extension = "".join(PurePosixPath(part).suffixes[-2:])[-20:]
    stem = part.encode(errors="surrogatepass")[: _LONGEST_NAME // 2].decode(errors="ignore").partition(".")[0]
    return _with_digest(f"{stem}{extension}", part)


def _with_digest(name: str, key: str) -> str:
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
    stem, dot, extensions = name.partition(".")
    return f"{stem}-{digest}{dot}{extensions}"
