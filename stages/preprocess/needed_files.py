"""Which files of a model in a store a training needs."""

from collections.abc import Sequence
from fnmatch import fnmatch

from kfp_osft.shared.model.folder import WEIGHT_FILES

_SMALL_FILES = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "additional_chat_templates/*",
)
_CODE = "*.py"
# The same weights in the formats of other libraries.
_OTHER_WEIGHTS = ("consolidated*", "adapter_*")


def needed_files(files: Sequence[str], trust_remote_code: bool) -> tuple[list[str], list[str]]:
    """The small files and the weights of a model, of all paths in its repository or below its prefix.

    Args:
        trust_remote_code: whether Python code is needed too.
    """
    small = (*_SMALL_FILES, *([_CODE] if trust_remote_code else []))
    return [file for file in files if _matches(file, small)], _weights(files)


def _matches(file: str, patterns: Sequence[str]) -> bool:
    """Whether a file is one of these; "*" stands for no "/"."""
    return any(fnmatch(file, pattern) and file.count("/") == pattern.count("/") for pattern in patterns)


def _weights(files: Sequence[str]) -> list[str]:
    """Those of the first pattern that the model has."""
    for pattern in WEIGHT_FILES:
        found = [file for file in files if _matches(file, (pattern,)) and not _matches(file, _OTHER_WEIGHTS)]
        if found:
            return found
    return []
