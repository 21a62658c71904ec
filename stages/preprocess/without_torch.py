"""transformers without torch, for a process that only tokenizes."""

import os
import sys


def leave_torch_out() -> None:
    """Keeps this process from ever importing torch, which takes 4 s and 0.3 GB that tokenizing does not need.

    transformers supports this: its tokenizers and configurations work without torch. Does nothing if torch or
    transformers is already imported.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        return
    # Otherwise transformers warns that models will not be available.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # The import system's way to make an import fail; typeshed does not have it.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
