"""A model for the tests of OCI registries, and processes that pull it."""

import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.registry import (
    missing_programs,
)

needs_registry = pytest.mark.skipif(
    bool(missing_programs()),
    reason=(f"{' and '.join(missing_programs())} not installed: apt-get install docker-registry skopeo"),
)


def weights(size: int, seed: int = 0) -> bytes:
    """A safetensors file with one tensor of random bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


MODEL = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": b"{}" * 500,
    "model.safetensors": weights(200_000),
}
#: Distinguishable from MODEL.
OTHER = MODEL | {"config.json": b'{"model_type": "llama"}'}


def below(folder: str, files: dict[str, bytes] = MODEL) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def is_clean(workspace: Path) -> bool:
    """Nothing is left of the pull but models, their manifests and locks."""
    return not [
        path
        for path in workspace.glob("base_models/*/*")
        if path.name in ("layers", "unpacked") or path.name.endswith(".unfinished")
    ]


def start_pull(reference: str, workspace: Path, before: str = "") -> subprocess.Popen:
    """A process that pulls, in a process group of its own."""
    program = (
        f"import sys, pathlib; from kfp_osft.stages.preprocess.oci import model\n{before}\n"
        "model.pull_model(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    return subprocess.Popen([sys.executable, "-c", program, reference, str(workspace)], start_new_session=True)
