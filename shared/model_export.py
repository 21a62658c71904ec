"""export_model: publishes the trained model on the PVC and as an artifact, whole or not at all."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kfp_osft.shared.base_model import model_folder, safetensors_header
from kfp_osft.shared.errors import InputError
from kfp_osft.shared.log import log
from kfp_osft.shared.publish import replacing_folder, writable_folder, write_json
from kfp_osft.shared.run_file import RUN_FILE, read_run
from kfp_osft.shared.train_script import hide_broken_torchvision

#: Folder on the PVC, by the name that today's component gives it.
FINAL_MODEL = "final_model"
COMPLETED = "training completed"

# mini-trainer: hf_format/samples_<samples seen>, a float's text.
_CHECKPOINT = re.compile(r"samples_(\d+(?:\.\d+)?)")
_INDEX = "model.safetensors.index.json"


class ModelArtifact(Protocol):
    """What is used of a KFP Model artifact."""

    path: str
    metadata: dict[str, Any]


class _Checkpoint(NamedTuple):
    samples: float
    folder: Path


def export_model(checkpoint_dir: str, pvc_path: str, output_model: ModelArtifact) -> str:
    """Publishes the last complete checkpoint as pvc_path/final_model and as the artifact.

    On the PVC the files are hard links of the checkpoint's where the file system can, so the weights are there once.
    A final_model that was there before stays until the new one is whole.

    Args:
        checkpoint_dir: what launch_trainjob returned.
        pvc_path: the workspace.
        output_model: gets the model's files, and metadata model_name, artifact_path and pvc_model_dir.

    Returns:
        "training completed".

    Raises:
        InputError: no complete checkpoint, or a workspace that cannot be written.
    """
    workspace = writable_folder("pvc_path", pvc_path)
    checkpoint = last_complete_checkpoint(Path(checkpoint_dir))
    run = read_run(Path(checkpoint_dir))
    base_model = run["osft"]["model_path"] if run else ""
    final_model = workspace / FINAL_MODEL
    with replacing_folder(final_model) as unfinished:
        _link_files(checkpoint, unfinished)
        if run:
            # Not a link: the checkpoint's own file would change with it.
            shutil.copyfile(Path(checkpoint_dir) / RUN_FILE, unfinished / RUN_FILE)
        _switch_cache_on(unfinished / "config.json")
        _add_generation_config(base_model, unfinished)
    log(f"Model of {checkpoint.name}: {final_model}")

    artifact = Path(output_model.path)
    shutil.rmtree(artifact, ignore_errors=True)
    artifact.mkdir(parents=True)
    _link_files(final_model, artifact)
    output_model.metadata.update(
        model_name=f"{Path(base_model).name or 'model'}-osft",
        artifact_path=output_model.path,
        pvc_model_dir=str(final_model),
        # What was given: an oci:// model was trained from the folder that it was pulled into.
        base_model=run["about"]["base_model"] if run else "",
        checkpoint_dir=checkpoint_dir,
        checkpoint=checkpoint.name,
    )
    return COMPLETED


def last_complete_checkpoint(checkpoint_dir: Path) -> Path:
    """The checkpoint with the most samples seen that is complete; others are told and passed over.

    Raises:
        InputError: there is none.
    """
    found = [_Checkpoint(float(match.group(1)), folder) for folder in checkpoint_dir.glob("hf_format/*")
             if (match := _CHECKPOINT.fullmatch(folder.name))]
    for checkpoint in sorted(found, reverse=True):
        problem = _problem_of(checkpoint.folder)
        if problem is None:
            return checkpoint.folder
        log(f"Warning: checkpoint {checkpoint.folder.name} is passed over: {problem}")
    raise InputError(f"there is no complete checkpoint in {checkpoint_dir}/hf_format; "
                     "training_save_final_checkpoint or training_checkpoint_at_epoch makes the training save one")


def _problem_of(folder: Path) -> str | None:
    """What makes a checkpoint incomplete, or None."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"{name} is missing or cut off"
    try:
        index = folder / _INDEX
        shards = (set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file()
                  else {"model.safetensors"})
        for shard in shards:
            safetensors_header(folder / shard)
    except (OSError, ValueError, KeyError) as error:
        return str(error)
    return None


def _link_files(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir(exist_ok=True)
            continue
        try:
            os.link(file, place)
        except OSError:
            # Another file system, or one without hard links.
            shutil.copyfile(file, place)
        # safetensors saves for the owner alone; a pod that serves the model is somebody else.
        place.chmod(place.stat().st_mode | 0o044)


def _switch_cache_on(config_file: Path) -> None:
    """mini-trainer switches it off for the training; without it generating takes many times as long."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    # Not in place: the file is a link to the checkpoint's.
    config_file.unlink()
    write_json(config_file, {**config, "use_cache": True})


def _add_generation_config(base_model: str, folder: Path) -> None:
    """mini-trainer does not save it; without it a model may not know where its answers end."""
    if (folder / "generation_config.json").exists() or not base_model:
        return
    base_folder = model_folder(base_model)
    if base_folder is not None:
        if (base_folder / "generation_config.json").is_file():
            shutil.copyfile(base_folder / "generation_config.json", folder / "generation_config.json")
        return
    hide_broken_torchvision()
    from transformers import GenerationConfig

    try:
        GenerationConfig.from_pretrained(base_model).save_pretrained(folder)
    except OSError:
        log(f"{base_model} gives no generation_config.json, so the model has none")
