"""Versions of the libraries that make a training's result."""

import importlib.metadata
from collections.abc import Sequence

#: Of the rows' tokens.
TOKENIZING = ("transformers", "tokenizers", "jinja2")
#: Of the model; train_script.LIBRARIES, without that script in the stages.
TRAINING = ("training-hub", "rhai-innovation-mini-trainer", "instructlab-training", "torch", "transformers")


def installed_versions(libraries: Sequence[str]) -> dict[str, str]:
    """Versions by name; without those that are not installed."""
    versions = {}
    for library in libraries:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
