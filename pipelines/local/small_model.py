"""Which models are loaded for a quick look beside a training."""

from pathlib import Path

# Bytes of weights. A larger model takes long to load, and twice perhaps more memory than there is.
_LARGEST = 4e9


def is_quickly_loaded(folder: Path) -> bool:
    """Whether a model's folder has its weights, and few enough for a quick look."""
    return 0 < sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= _LARGEST
