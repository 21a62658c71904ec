"""Code that lies beside a model, and a mini-trainer that would run it."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.tiny_model import write_chat_rows
from kfp_osft.stages.launch_trainjob.local_engine import train_locally


@pytest.mark.slow
def test_a_training_does_not_run_code_of_the_models_folder(tiny_model: Path, tmp_path: Path):
    # mini-trainer reads the config with trust_remote_code=True; transformers then prefers the code to its own class.
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "mine.MyConfig"}}))
    (model / "mine.py").write_text(
        "import pathlib\n"
        "from transformers import Qwen2Config\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class MyConfig(Qwen2Config):\n    pass\n"
    )

    train_locally(
        {
            "osft": {
                "model_path": str(model),
                "data_path": str(write_chat_rows(tmp_path / "rows.jsonl", rows=8)),
                "data_output_dir": str(tmp_path / "data"),
                "ckpt_output_dir": str(tmp_path / "checkpoints"),
                "unfreeze_rank_ratio": 0.5,
                "target_patterns": ["self_attn.q_proj"],
                "effective_batch_size": 8,
                "max_tokens_per_gpu": 600,
                "max_seq_len": 128,
                "learning_rate": 1e-3,
                "num_epochs": 1,
            },
            "device": "cpu",
        },
        {"HF_MODULES_CACHE": str(tmp_path / "modules")},
        tmp_path / "run.log",
    )

    assert list((tmp_path / "checkpoints" / "hf_format").iterdir())
    assert not (tmp_path / "ran").exists()
