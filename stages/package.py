"""kfp_osft as the stages need it: one archive, the same bytes on every machine, and the digest of its content.

The package is not embedded in the stages' components: Argo stores each byte of a component five times in the run's
Workflow, and four times more for each iteration of a loop. It comes from a ConfigMap, or is installed.
"""

import bz2
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path

import kfp_osft
from kfp_osft.stages.find_package import digest_of, package_files
from kfp_osft.stages.source_text import without_words

FOLDER = Path(next(iter(kfp_osft.__path__)))
# What makes components and this archive, which no pod does: names of files in stages/ and below it.
_ONLY_TO_COMPILE = ("component.py", "find_package.py", "package.py")


@functools.cache
def package_digest() -> str:
    """Digest of this kfp_osft's source without `pipelines`, which no stage needs; see digest_of."""
    return digest_of(package_files(FOLDER))


@functools.cache
def archive_digest() -> str:
    """Digest of the files in the archive."""
    return digest_of(_archived_files())


def config_map_name() -> str:
    """Name of the ConfigMap with exactly this code, such as kfp-osft-0-1-0-0123456789.

    KFP's driver names the pod's volume after it, and a volume's name is a DNS label: no dots.
    """
    version = re.sub("[^a-z0-9]+", "-", kfp_osft.__version__.lower())
    return f"kfp-osft-{version}-{package_digest()[:10]}"


def package_archive() -> bytes:
    """The archive of _archived_files; see packed."""
    return packed(_archived_files())


def packed(files: Mapping[str, str]) -> bytes:
    """JSON {name: source} compressed with bzip2, which has one implementation and so gives the same bytes everywhere
    (gzip's differ between zlib and zlib-ng)."""
    return bz2.compress(json.dumps(files, sort_keys=True, ensure_ascii=False).encode())


@functools.cache
def _archived_files() -> dict[str, str]:
    """Docstrings and comments are blank lines in it: they would be a third of its size, and `kubectl apply` accepts
    at most 262,144 bytes."""
    return {
        name: without_words(source)
        for name, source in package_files(FOLDER).items()
        if not (name.startswith("kfp_osft/stages/") and name.endswith(tuple(f"/{each}" for each in _ONLY_TO_COMPILE)))
    }
