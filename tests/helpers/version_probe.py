"""Tests that test_versions.py runs in its environments, with the KFP installed there: all that needs no training.

Not collected with the other tests, as its name does not begin with test_.
"""

import json
import os
import struct
from pathlib import Path

import pytest

from helpers.trained_folder import make_trained_folder
from kfp_osft import stages
from kfp_osft.pipelines.osft.compiling import compile_all


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint folder whose model is one tensor, of integers, as there is no torch here to look for NaN."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (model / name).write_text("{}")
    header = json.dumps({"w": {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return make_trained_folder(tmp_path / "checkpoints", model)


def test_everything_compiles():
    compile_all(Path(os.environ["COMPILED"]))


def test_the_dataset_is_resolved_from_a_path_and_from_an_artifact(kfp_local, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}\n{"messages": []}\n')
    workspace = str(kfp_local.workspace)

    by_path = kfp_local.run(stages.resolve_dataset, pvc_path=workspace, dataset_uri=str(rows))
    by_artifact = kfp_local.run(stages.resolve_dataset, pvc_path=workspace, dataset=rows)

    assert by_path.outputs["num_rows"] == by_artifact.outputs["num_rows"] == 2


def test_metrics_chart_and_model_are_made(kfp_local, trained: Path):
    metrics = kfp_local.run(stages.collect_metrics, checkpoint_dir=str(trained))
    chart = kfp_local.run(stages.render_loss_chart, metrics_path=metrics.outputs["metrics_path"])
    model = kfp_local.run(stages.export_model, checkpoint_dir=str(trained), pvc_path=str(kfp_local.workspace))

    assert metrics.outputs["output_metrics"].metadata["steps"] == 8
    assert Path(chart.output.path).stat().st_size > 100_000
    assert model.outputs["Output"] == "training completed"
    assert (kfp_local.workspace / "final_model/model.safetensors").is_file()
