"""A broken torchvision must not keep transformers from loading a model."""

import importlib
import importlib.util
import sys


def hide_broken_torchvision() -> None:
    """Makes transformers ignore a torchvision that is installed but fails to import; call it before that import.

    training-hub depends (through timm) on a torchvision that does not match a CPU build of torch: "operator
    torchvision::nms does not exist". transformers imports torchvision wherever it is installed.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        # The import system's way to make an import fail; typeshed does not have it.
        sys.modules["torchvision"] = None  # pyright: ignore[reportArgumentType]
