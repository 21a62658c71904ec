"""A disk that is full, or cannot be written: each stage says so in a sentence, and leaves nothing half done."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TINY_TRAINING
from helpers.trained_folder import make_trained_folder

# In a mount namespace of its own: argv are the folder to mount on, what is to be there, and the kind of disk.
_PROGRAM = """
import contextlib, json, shutil, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

disk, made, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", disk], check=True)
shutil.copytree(made, disk / "workspace")

from kfp_osft.shared.reporting.errors import InputError, system_problem
from kfp_osft.stages.collect_metrics.collection import collect
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.preprocess.training_data import preprocess_dataset
from kfp_osft.stages.render_loss_chart.rendering import render
from kfp_osft.stages.resolve_dataset.source import resolve

if kind == "full":
    (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 8192))
else:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
workspace, rows, training = disk / "workspace", sys.argv[4], json.loads(sys.argv[5])
checkpoints = workspace / "checkpoints" / "run"

def artifact(name):
    return SimpleNamespace(path=str(disk / name), uri=str(disk / name), metadata={}, log_metric=lambda *_: None)

stages = {
    "resolve_dataset": lambda: resolve("", "train", str(workspace), SimpleNamespace(path=rows, uri="s3://b/k")),
    "preprocess": lambda: preprocess_dataset(rows, str(workspace), training),
    "collect_metrics": lambda: collect(str(checkpoints), *map(artifact, "abc")),
    "render_loss_chart": lambda: render(str(checkpoints / "training_metrics_0.jsonl"), str(disk / "chart.html")),
    "export_model": lambda: export_model(str(checkpoints), str(workspace), artifact("model")),
}
said = {}
for name, stage in stages.items():
    try:
        with contextlib.redirect_stdout(sys.stderr):
            stage()
        said[name] = ""
    except Exception as error:
        said[name] = str(error) if isinstance(error, InputError) else system_problem(error) or repr(error)
left = [str(path) for path in disk.rglob("*") if path.name.endswith(".unfinished")]
print(json.dumps([said, left]))
"""


def _may_mount() -> bool:
    unshare = shutil.which("unshare")
    return bool(unshare) and not subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(not _may_mount(), reason="needs user and mount namespaces")
@pytest.mark.parametrize(
    ("kind", "words"), [("full", ("No space left on device", "needs")), ("read-only", ("Read-only file system",))]
)
def test_each_stage_says_in_a_sentence_that_its_disk_cannot_be_written(
    kind: str, words: tuple[str, ...], tmp_path: Path, tiny_model: Path
):
    made, disk, rows = tmp_path / "made", tmp_path / "disk", tmp_path / "rows.jsonl"
    disk.mkdir()
    make_trained_folder(made / "checkpoints" / "run", tiny_model)
    row = {"messages": [{"role": role, "content": "What everybody says. " * 4} for role in ("user", "assistant")]}
    rows.write_text((json.dumps(row) + "\n") * 200)
    training = {"training_base_model": str(tiny_model), **TINY_TRAINING}
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", _PROGRAM, disk, made, kind, rows, json.dumps(training)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, left = json.loads(done.stdout.splitlines()[-1])
    for stage, sentence in said.items():
        assert any(word in sentence for word in words) and "\n" not in sentence, f"{stage}: {sentence}"
        # And where.
        assert "pvc_path" in sentence or str(disk) in sentence or "artifact" in sentence, f"{stage}: {sentence}"
    assert left == []
