"""Part of the training script: what a training leaves in its checkpoint folder, and whether it is any good."""

import glob
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path

STATES_FOLDER = "full_state_checkpoints"
METRICS_FILE = "training_metrics_0.jsonl"
VERSIONS_FILE = "library_versions.json"
LIBRARIES = ("training-hub", "rhai-innovation-mini-trainer", "instructlab-training", "torch", "transformers")
#: Written once the training is complete: for a launcher whose TrainJob is gone by then.
COMPLETE_FILE = "training_complete.json"


def saved_states(checkpoint_dir: str) -> set[str]:
    """The states that mini-trainer has saved on SIGTERM, whole ones (full_state_checkpoint.py)."""
    files = glob.glob(os.path.join(glob.escape(checkpoint_dir), STATES_FOLDER, "step_*", "training_state.pt"))
    return {str(Path(file).parent) for file in files}


def find_problem(osft_args: dict, weights_before: dict[str, int], metrics_before: int) -> str | None:
    """What is wrong with a training that reported success, as a sentence; None if nothing is.

    Args:
        osft_args: its keyword arguments.
        weights_before, metrics_before: checkpoint_weights() and metrics_size() from before it started: an
            older run may have left its files in the same folder.
    """
    checkpoint_dir = osft_args["ckpt_output_dir"]
    metrics_file = Path(checkpoint_dir) / METRICS_FILE
    written = metrics_file.read_bytes()[metrics_before:] if metrics_file.exists() else b""
    # A thread of mini-trainer's writes this file, and the exit may cut its last line.
    lines = [line for line in written.split(b"\n")[:-1] if line.strip()]
    if not lines:
        return f"the training ended without a step: no new line in {metrics_file}. Is the data empty?"
    last = json.loads(lines[-1])
    if not math.isfinite(last["loss"]):
        # A loss that is not finite puts its gradient into every weight: no later step can mend it.
        return (
            f"the training is lost: the loss of step {last['step']} is {last['loss']}. Usual causes: rows "
            "without an assistant's answer, rows longer than max_tokens_per_gpu, a learning_rate too high."
        )
    asked_for = (osft_args.get(each) for each in ("checkpoint_at_epoch", "save_best_val_loss"))
    saves = osft_args.get("save_final_checkpoint") is not False or any(asked_for)
    if saves and checkpoint_weights(checkpoint_dir).items() <= weights_before.items():
        return f"the training ended without a checkpoint: no new one in {Path(checkpoint_dir, 'hf_format')}"
    return None


def write_versions(checkpoint_dir: str) -> None:
    """Writes the versions of the libraries that train into the checkpoint folder; the image may be anybody's."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    os.makedirs(checkpoint_dir, exist_ok=True)
    Path(checkpoint_dir, VERSIONS_FILE).write_text(json.dumps(versions, indent=2), encoding="utf-8")


def checkpoint_weights(checkpoint_dir: str) -> dict[str, int]:
    """The weight files of the complete checkpoints (those with a config.json) and their times of change."""
    files = glob.glob(os.path.join(glob.escape(checkpoint_dir), "hf_format", "*", "*.safetensors"))
    return {path: os.stat(path).st_mtime_ns for path in files if (Path(path).parent / "config.json").exists()}


def open_to_group(checkpoint_dir: str) -> None:
    """Lets the stages' pods read and replace the checkpoints: safetensors writes files for their owner alone."""
    for path in glob.glob(os.path.join(glob.escape(checkpoint_dir), "hf_format", "*", "*")):
        status = os.stat(path)
        if status.st_uid == os.getuid():
            os.chmod(path, status.st_mode | 0o060)


def metrics_size(checkpoint_dir: str) -> int:
    """Bytes in the metrics file of node 0, to which mini-trainer appends a line a step."""
    path = Path(checkpoint_dir) / METRICS_FILE
    return path.stat().st_size if path.exists() else 0
