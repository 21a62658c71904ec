"""Which version of kfp-osft made an artifact, in the artifact's metadata."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import kfp_osft

#: Key of the metadata.
VERSION_KEY = "kfp_osft_version"


def with_version(function: Callable) -> Callable:
    """A stage's function that leaves the version in the metadata of its output artifacts, whose names are output_*."""

    @functools.wraps(function)
    def versioned(**arguments: Any) -> Any:
        result = function(**arguments)
        for name, value in arguments.items():
            if name.startswith("output_"):
                value.metadata[VERSION_KEY] = kfp_osft.__version__
        return result

    # KFP's executor does not follow a wrapper to what it wraps.
    vars(versioned)["__signature__"] = inspect.signature(function)
    return versioned
