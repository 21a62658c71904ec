"""Training goes on in the same workspace: from the model that an earlier run left there."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.preprocess.training_data import preprocess_dataset

_TRAINING = {
    "training_effective_batch_size": 8,
    "training_max_tokens_per_gpu": 1024,
    "training_max_seq_len": 256,
    "training_learning_rate": 1e-3,
    "training_num_epochs": 1,
}


def _prepared(rows: Path, workspace: Path, base_model: Path, **training: Any) -> TrainingConfig:
    arguments = {**_TRAINING, "training_base_model": str(base_model), **training}
    return TrainingConfig.from_json(preprocess_dataset(str(rows), str(workspace), arguments).training_config)


def _trained(config: TrainingConfig, workspace: Path) -> Path:
    """What the stages after preprocess leave, without a training; returns the run's model."""
    checkpoint_dir = Path(config.osft["ckpt_output_dir"])
    made = make_trained_folder(workspace / "made", Path(config.osft["model_path"]))
    shutil.move(made / "hf_format", checkpoint_dir / "hf_format")
    shutil.rmtree(made)
    run = {"fingerprint": config.fingerprint, "osft": config.osft, "about": config.about}
    (checkpoint_dir / "osft_run.json").write_text(json.dumps(run))
    artifact: Any = SimpleNamespace(path=str(workspace / "artifact"), uri=str(workspace / "artifact"), metadata={})
    export_model(str(checkpoint_dir), str(workspace), artifact)
    return workspace / "models" / checkpoint_dir.name


def test_it_begins_from_the_earlier_runs_own_model_and_the_same_call_again_is_the_same_run(
    tmp_path: Path, tiny_model: Path, chat_rows: Path, capsys
):
    first = _trained(_prepared(chat_rows, tmp_path, tiny_model), tmp_path)
    weights = (first / "model.safetensors").stat()

    config = _prepared(chat_rows, tmp_path, tmp_path / "final_model")
    assert config.osft["model_path"] == config.about["base_model"] == str(first)
    second = _trained(config, tmp_path)
    assert (tmp_path / "final_model").samefile(second) and not second.samefile(first)

    again = _prepared(chat_rows, tmp_path, tmp_path / "final_model")
    assert (again.fingerprint, again.osft) == (config.fingerprint, config.osft)
    assert f"is the result of this same training from {first}" in capsys.readouterr().out
    # What it began from is what it was.
    assert (first / "model.safetensors").stat().st_mtime_ns == weights.st_mtime_ns


def test_another_training_from_final_model_goes_on_from_the_last_one(tmp_path: Path, tiny_model: Path, chat_rows: Path):
    _trained(_prepared(chat_rows, tmp_path, tiny_model), tmp_path)
    second = _trained(_prepared(chat_rows, tmp_path, tmp_path / "final_model"), tmp_path)

    config = _prepared(chat_rows, tmp_path, tmp_path / "final_model", training_learning_rate=5e-4)

    assert config.osft["model_path"] == str(second)


def test_a_link_of_the_users_own_stays_the_name_of_the_base_model(tmp_path: Path, tiny_model: Path, chat_rows: Path):
    (tmp_path / "current").symlink_to(tiny_model)

    config = _prepared(chat_rows, tmp_path / "workspace", tmp_path / "current")

    assert config.osft["model_path"] == str(tmp_path / "current")


def test_where_the_checkpoints_are_gone_it_goes_on_from_the_last_model(
    tmp_path: Path, tiny_model: Path, chat_rows: Path
):
    model = _trained(_prepared(chat_rows, tmp_path, tiny_model), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")

    assert _prepared(chat_rows, tmp_path, tmp_path / "final_model").osft["model_path"] == str(model)
