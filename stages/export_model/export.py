"""export_model: publishes the trained model on the PVC and as an artifact, whole or not at all."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.atomic import replacing_folder, restore_replaced, writable_folder
from kfp_osft.shared.files.full_disk import explaining_a_full_disk
from kfp_osft.shared.files.manifests import fingerprint
from kfp_osft.shared.files.ownership import OWNER_FILE, owned, owner_file_of
from kfp_osft.shared.model.folder import config_value, public_name
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.push.export_uri import push_to_export_uri
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.tracking.mlflow_run import tracked_run
from kfp_osft.shared.training.checkpoints import Checkpoint, checkpoints, first_sound
from kfp_osft.shared.training.figures import figures, trained_config
from kfp_osft.shared.training.health import broken_model, warnings_of
from kfp_osft.shared.training.metrics import read_steps
from kfp_osft.shared.training.run_file import (
    FINAL_MODEL,
    MODELS,
    RUN_FORMAT,
    data_made_from,
    dataset_source,
    library_versions,
    read_run,
)
from kfp_osft.shared.training.run_parameters import training_parameters, without_folder
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses
from kfp_osft.stages.export_model.artifact import PLACES, ModelArtifact, artifact_metadata, fill_artifact
from kfp_osft.stages.export_model.carried_files import base_model_folder
from kfp_osft.stages.export_model.checkpoint_checks import problem_of
from kfp_osft.stages.export_model.lineage import earlier_trainings, model_name
from kfp_osft.stages.export_model.model_card import carried_metadata
from kfp_osft.stages.export_model.model_files import BaseModel, write_model
from kfp_osft.stages.export_model.placing import let_others_read, show_as
from kfp_osft.stages.export_model.published_run import without_paths, write_published
from kfp_osft.stages.export_model.weights import base_weights, share_weights

COMPLETED = "training completed"


class _Training(NamedTuple):
    """What is known of the training."""

    run: dict[str, Any]
    made_from: dict[str, Any]
    base: BaseModel
    source: dict[str, str]


def export_model(checkpoint_dir: str, pvc_path: str, output_model: ModelArtifact, export_uri: str = "") -> str:
    """Publishes the best checkpoint as pvc_path/models/<run>, pvc_path/final_model and the artifact.

    The best is the one with the lowest validation loss where there was a validation, else the last; one that is not
    whole or holds NaN is passed over. Its tensors, config and tokenizer are published in the base model's form; where
    that takes another weight file than the trainer's, it takes the place of the trainer's too, as a hard link where
    the file system can: on the PVC the weights are there once. Each run has a folder of its own, named as its folder of
    checkpoints, so that no run overwrites a model that another began from; final_model is a link to the last one.

    Args:
        checkpoint_dir: what launch_trainjob returned.
        pvc_path: the workspace.
        output_model: gets the model's files and its metadata, see artifact_metadata.
        export_uri: where the model is pushed in addition, see push_model; or empty. In a pipeline with an evaluation
            it is evaluate_model's, which knows whether the model passed.

    Returns:
        "training completed".

    Raises:
        InputError: no sound checkpoint, a workspace that cannot be written or is full, or a push that failed.
        TrainingError: the training broke the model, and training_export_broken_model is off.
    """
    workspace = writable_folder("pvc_path", pvc_path)
    use_workspace(workspace)
    folder = Path(checkpoint_dir)
    with _owning(folder):
        _export(folder, workspace, output_model, export_uri.strip())
    return COMPLETED


def _owning(folder: Path) -> contextlib.AbstractContextManager[object]:
    """Nobody trains into the checkpoints, or exports them, meanwhile."""
    # One that is not there is reported, and one that cannot be written is nobody's.
    if not os.access(folder, os.W_OK):
        return contextlib.nullcontext()
    # The training is complete: a TrainJob whose launcher is silent does not write any more.
    return owned(folder / OWNER_FILE, "export_model", lives=lambda key: False)


def _export(folder: Path, workspace: Path, output_model: ModelArtifact, export_uri: str) -> None:
    steps = _steps(folder)
    losses = validation_losses(steps, loss_after_the_last_step(folder))
    training = _training(folder)
    _check_health(folder, steps, training)
    restore_replaced(folder / "hf_format")
    checkpoint = first_sound(folder, checkpoints(folder, steps, losses), _check_against(training.base))
    published = _published_run(
        folder, training, checkpoint, figures(folder, steps, training.run or None), warnings_of(steps)
    )
    name = published["model_name"]

    final_model = workspace / FINAL_MODEL
    model = workspace / MODELS / folder.absolute().name
    what = f"{workspace}: the model does not fit there"
    with explaining_a_full_disk(workspace, what), replacing_folder(model) as unfinished:
        write_model(checkpoint.folder, training.base, unfinished)
        write_published(unfinished, published)
        let_others_read(unfinished)
    share_weights(model, checkpoint.folder)
    with explaining_a_full_disk(Path(output_model.path), f"{output_model.path}: the model does not fit there"):
        fill_artifact(output_model, model)
    with explaining_a_full_disk(workspace, what), owned(owner_file_of(final_model), "export_model"):
        show_as(final_model, model)
    log(
        f"Model of checkpoint {checkpoint.description}, the {'best of' if losses else 'last of'} "
        f"{len(list(folder.glob('hf_format/samples_*')))}: {final_model}"
    )

    metadata = artifact_metadata(name, output_model, final_model, str(folder), published)
    output_model.metadata.update(metadata)
    with tracked_run(training.run or None) as tracked:
        if tracked is not None:
            tracked.set_tags({key: metadata.get(key) for key in PLACES})
    if export_uri:
        output_model.metadata["export_uri"] = push_to_export_uri(model, export_uri, training.run or None)


def _steps(folder: Path) -> list[dict]:
    """The trainer's steps; a model is not withheld because its metrics are broken, which collect_metrics tells."""
    try:
        return read_steps(folder)
    except InputError as error:
        log(f"Warning: the checkpoint is chosen without the metrics: {error}")
        return []


def _training(folder: Path) -> _Training:
    run = read_run(folder) or {}
    made_from = data_made_from(run.get("osft", {}))
    path = run.get("osft", {}).get("model_path", "")
    about, base, revision = run.get("about", {}), _base(made_from), _base(made_from).get("revision")
    base_folder = base_model_folder(path, revision) if path else None
    base_model = BaseModel(
        about.get("base_model", path), base_folder, base_weights(path, revision, base_folder), base.get("files") or {}
    )
    return _Training(run, made_from, base_model, dataset_source(about.get("dataset", "")))


def _check_health(folder: Path, steps: list[dict], training: _Training) -> None:
    """Withholds a model that its training broke, unless it is asked for."""
    broken = broken_model(steps, config_value(trained_config(folder), "vocab_size"))
    if broken is None:
        return
    if not training.run.get("data", {}).get("export_broken_model"):
        raise TrainingError(
            f"the training broke the model: {broken}. Usually training_learning_rate is too high. "
            "training_export_broken_model=True exports it nevertheless"
        )
    log(f"Warning: the training broke the model: {broken}; it is exported as training_export_broken_model says")


def _base(made_from: Mapping[str, Any]) -> dict[str, Any]:
    base = made_from.get("base_model")
    return base if isinstance(base, dict) else {}


def _check_against(base: BaseModel) -> Callable[[Path], str | None]:
    """The check of a checkpoint, with the base model's shapes where they can be read without fetching weights."""
    tensors = base.weights.tensors if base.weights else {}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    vocabulary = None
    if base.folder is not None:
        # It could be read when the training began; that it cannot be now is no fault of the checkpoint.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            vocabulary = json.loads((base.folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    if not shapes:
        log("The shapes of the weights are not compared: the base model's safetensors are not on this computer")
    return lambda checkpoint: problem_of(checkpoint, shapes, vocabulary)


def _published_run(
    folder: Path, training: _Training, checkpoint: Checkpoint, metrics: Mapping[str, float], warnings: list[str]
) -> dict[str, Any]:
    """The content of the model's osft_run.json: launch_trainjob's, and what it takes to run it again."""
    run, made_from = training.run, training.made_from
    earlier, about = earlier_trainings(training.base.folder), run.get("about", {})
    held_out = about.get("validation_dataset", "")
    told = {key: value for key, value in run.items() if key not in ("made_from", "data", "env", "trainjob")}
    return {
        "format": RUN_FORMAT,
        "model_name": model_name(training.base.name, earlier),
        **told,
        **{key: without_paths(told[key]) for key in ("osft", "about") if key in told},
        "base_model": {"name": public_name(training.base.name), **_base(made_from)},
        "dataset": _rows(about.get("dataset", ""), training.source, made_from.get("dataset")),
        **({"validation": _rows(held_out, dataset_source(held_out), made_from.get("held_out"))} if held_out else {}),
        "parameters": without_folder(training_parameters(run, bool(made_from.get("processed")))) if run else {},
        "checkpoint": {
            "name": checkpoint.folder.name,
            "description": checkpoint.description,
            "samples": checkpoint.samples,
            "step": checkpoint.step,
            "validation_loss": checkpoint.validation_loss,
        },
        "metrics": dict(metrics),
        "warnings": warnings,
        "lineage": earlier,
        "carried": carried_metadata(training.base.folder) if training.base.folder else {},
        "library_versions": library_versions(folder),
    }


def _rows(path: str, source: Mapping[str, str], digests: list[str] | None) -> dict[str, Any]:
    """Rows of the run: by the name of their file or folder, where they came from, and the digests of their files."""
    return {
        "name": Path(path).name,
        **source,
        **({"digests": digests, "fingerprint": fingerprint(digests)} if digests else {}),
    }
