"""kfp_osft as the stages need it: one archive, the same bytes on every machine, and the digest of its content.

The package is not embedded in the stages' components: Argo stores each byte of a component five times in the run's
Workflow, and four times more for each iteration of a loop. It comes from a ConfigMap, or is installed.
"""

import ast
import bz2
import functools
import io
import json
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path

import kfp_osft
from kfp_osft.stages.find_package import digest_of, package_files

FOLDER = Path(next(iter(kfp_osft.__path__)))


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
    return {name: without_words(source) for name, source in package_files(FOLDER).items()}


def without_words(source: str) -> str:
    """A module without its docstrings and comments, line for line, so that tracebacks name the lines of the source."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            words = node.body[0]
            assert words.end_lineno is not None
            # A body needs a statement.
            lines[words.lineno - 1] = " " * words.col_offset + '""'
            lines[words.lineno : words.end_lineno] = [""] * (words.end_lineno - words.lineno)
    for token in tokenize.generate_tokens(io.StringIO("".join(f"{line}\n" for line in lines)).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return "".join(f"{line}\n" for line in lines)
