"""Time and disk usage of exporting a large model, with hard links and with copies.

Run it: python tests/bench/bench_export_model.py [size of the weights in GB, 2 by default]
Needs twice that size below TMPDIR.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.tiny_model import make_tiny_model
from helpers.trained_folder import make_trained_folder
from kfp_osft.stages.export_model.export import export_model

_SHARD_BYTES = 500_000_000
_COLUMNS = 4096


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    with tempfile.TemporaryDirectory(prefix="bench-export-") as name:
        workspace = Path(name)
        checkpoint_dir = make_trained_folder(workspace / "checkpoints", make_tiny_model(workspace / "model"))
        checkpoint = checkpoint_dir / "hf_format" / "samples_64.0"
        _make_large(checkpoint, int(gigabytes * 1e9))
        shards = len(list(checkpoint.glob("*.safetensors")))
        print(f"weights: {_bytes_below(checkpoint) / 1e9:.2f} GB in {shards} shards")
        _export(workspace, checkpoint_dir)  # imports torch

        _measure("a plain copy (cp -r)", workspace, lambda: shutil.copytree(checkpoint, workspace / "copy"))
        shutil.rmtree(workspace / "copy")
        for name in ("final_model", "artifact"):
            shutil.rmtree(workspace / name)
        _measure("first export", workspace, lambda: _export(workspace, checkpoint_dir))
        _measure("export again", workspace, lambda: _export(workspace, checkpoint_dir))
        link = os.link
        os.link = _refuse
        _measure(
            "export where links are refused, with its artifact", workspace, lambda: _export(workspace, checkpoint_dir)
        )
        os.link = link


def _make_large(checkpoint: Path, size: int) -> None:
    import torch
    from safetensors.torch import save_file

    (checkpoint / "model.safetensors").unlink()
    count = -(-size // _SHARD_BYTES)
    weight_map = {}
    for number in range(1, count + 1):
        file = f"model-{number:05}-of-{count:05}.safetensors"
        rows = size // count // 4 // _COLUMNS // 2
        tensors = {f"layers.{number}.{part}.weight": torch.randn(rows, _COLUMNS).to(torch.bfloat16) for part in "abcd"}
        save_file(tensors, checkpoint / file)
        weight_map |= dict.fromkeys(tensors, file)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _export(workspace: Path, checkpoint_dir: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        export_model(
            str(checkpoint_dir), str(workspace), SimpleNamespace(path=str(workspace / "artifact"), uri="", metadata={})
        )


def _measure(what: str, workspace: Path, work: Callable[[], object]) -> None:
    before, started = _bytes_below(workspace), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    print(f"{what}: {seconds:.2f} s, {(_bytes_below(workspace) - before) / 1e9:.3f} GB more on disk")


def _refuse(source: Path, target: Path) -> None:
    raise OSError("no hard links here")


def _bytes_below(folder: Path) -> int:
    """Bytes on disk, counting a file with several names once."""
    inodes = {
        (found.st_dev, found.st_ino): found.st_blocks * 512 for file in folder.rglob("*") if (found := file.lstat())
    }
    return sum(inodes.values())


if __name__ == "__main__":
    main()
