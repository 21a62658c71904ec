"""A torchvision that does not import must not keep transformers from loading a model."""

import importlib
import importlib.util
import sys


def hide_broken_torchvision() -> None:
    """Makes a torchvision that is installed but does not import look absent; call it before transformers.

    training-hub brings a torchvision (through timm) that does not match a CPU build of torch: "operator
    torchvision::nms does not exist". transformers imports torchvision wherever it finds it.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None
