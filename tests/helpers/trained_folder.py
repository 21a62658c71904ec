"""A checkpoint folder as a training leaves it, made without training: for the stages that follow."""

import json
import shutil
from pathlib import Path

from kfp_osft.shared.files.manifests import file_digest, sampled_digest, write_manifest


def make_trained_folder(folder: Path, model: Path, samples: tuple[str, ...] = ("64.0",)) -> Path:
    """Writes checkpoints (copies of the model), mini-trainer's metrics for 8 steps, the files of preprocess and of the
    training script, and osft_run.json."""
    for count in samples:
        checkpoint = folder / "hf_format" / f"samples_{count}"
        shutil.copytree(model, checkpoint)
        # As mini-trainer leaves it.
        (checkpoint / "generation_config.json").unlink()
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps({**config, "use_cache": False}))
    steps = [
        {
            "step": step,
            "epoch": (step - 1) // 4,
            "steps_per_epoch": 4,
            "lr": 1e-3,
            "grad_norm": 2.0 - step / 10,
            "loss": 6.0 - step / 4,
            "num_samples": 8,
            "num_loss_counted_tokens": 100,
            "num_total_tokens": 250,
            "time_per_batch": 0.5,
            "tokens_per_second": 500.0,
            "samples_per_second": 16.0,
            "total_samples_accumulated": 8 * step,
            "peak_memory_usage_GB": 0.0,
            "val_loss": None,
            "timestamp": f"2026-11-01T10:00:{step:02d}",
        }
        for step in range(1, 9)
    ]
    (folder / "training_metrics_0.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    data = folder / "_internal_data_processing"
    data.mkdir(parents=True)
    small = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    base_model = {
        "files": {name: file_digest(model / name) for name in small if (model / name).is_file()},
        "weights": {file.name: [file.stat().st_size, sampled_digest(file)] for file in model.glob("*.safetensors")},
    }
    write_manifest(
        data / "manifest.json", {"dataset": ["d" * 64], "base_model": base_model, "processed": False}, (), report={}
    )
    (folder / "library_versions.json").write_text(json.dumps({"torch": "2.9.1", "training-hub": "0.11.2"}))
    run = {
        "fingerprint": "f" * 64,
        "made_from": "m" * 64,
        "trainjob_name": "local-x",
        "seconds": 12.5,
        "osft": {
            "model_path": str(model),
            "unfreeze_rank_ratio": 0.25,
            "effective_batch_size": 8,
            "max_seq_len": 256,
            "learning_rate": 1e-3,
            "num_epochs": 2,
            "data_path": str(data / "data.jsonl"),
            "data_output_dir": str(data),
            "use_processed_dataset": True,
            "ckpt_output_dir": str(folder),
        },
        "about": {
            "base_model": str(model),
            "dataset": "/data/rows.jsonl",
            "rows": 34,
            "samples": 32,
            "too_long": 1,
            "too_short": 1,
            "tokens": 1000,
            "loss_tokens": 400,
            "longest": 40,
        },
    }
    (folder / "osft_run.json").write_text(json.dumps(run))
    return folder
