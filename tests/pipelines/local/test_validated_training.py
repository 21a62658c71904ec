"""Trainings that validate, for real: from the held-out rows to the exported model."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import TINY_TRAINING
from kfp_osft.shared.training.metrics import read_table
from kfp_osft.stages.collect_metrics.collection import collect
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.launch_trainjob.launch import launch
from kfp_osft.stages.preprocess.training_data import preprocess_dataset

pytestmark = pytest.mark.slow


def test_raw_documents_are_trained_in_blocks_and_the_best_of_their_models_is_exported(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OSFT_LAUNCHER", "local")
    # They must not reach mini-trainer, which would start these trackers.
    monkeypatch.setenv("WANDB_PROJECT", "workbench")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "workbench")
    documents, workspace = tmp_path / "documents.jsonl", tmp_path / "workspace"
    texts = [
        f"Document {number}: Vienna is a city of music, and so it was in {1700 + number}. " for number in range(24)
    ]
    documents.write_text("".join(json.dumps({"text": text * 3}) + "\n" for text in texts))
    training = {
        **TINY_TRAINING,
        "training_base_model": str(tiny_model),
        "training_block_size": 64,
        "training_validation_split": 0.25,
        "training_validation_every": "3",
        "training_save_best": True,
        "training_save_dtype": "bfloat16",
        "training_optimizer_kwargs": "weight_decay=0.1,beta1=0.8",
        "training_report_to": "tensorboard",
    }

    prepared = preprocess_dataset(str(documents), str(workspace), training)
    folder = Path(launch(prepared.training_config, str(workspace), None).checkpoint_dir)
    metrics: dict[str, float] = {}
    artifacts = [SimpleNamespace(path=str(tmp_path / name), uri="", metadata={}) for name in ("steps", "log", "model")]
    table = read_table(
        Path(
            collect(
                str(folder), SimpleNamespace(log_metric=metrics.__setitem__), artifacts[0], artifacts[1]
            ).metrics_path
        )
    )
    export_model(str(folder), str(workspace), artifacts[2])

    measured = {step["step"]: step for step in table if step["val_loss"] is not None}
    # Every third step and the last one.
    assert {3, table[-1]["step"]} <= measured.keys() <= {*range(3, 99, 3), table[-1]["step"]}
    assert measured[3]["val_num_samples"] == 6
    assert metrics["validation_loss"] == table[-1]["val_loss"] < measured[3]["val_loss"]
    published = json.loads((workspace / "final_model" / "osft_run.json").read_text())
    assert published["checkpoint"]["validation_loss"] == metrics["lowest_validation_loss"]
    assert json.loads((workspace / "final_model" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
