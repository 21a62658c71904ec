"""export_model: publishes the trained model on the PVC and as an artifact, whole or not at all."""

import contextlib
import errno
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.atomic import replacing_folder, restore_replaced, writable_folder, write_json
from kfp_osft.shared.files.manifests import fingerprint
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.checkpoints import Checkpoint, checkpoints, first_sound
from kfp_osft.shared.training.figures import PARAMETERS, figures
from kfp_osft.shared.training.metrics import read_steps
from kfp_osft.shared.training.run_file import (
    MODELS,
    RUN_FILE,
    RUN_FORMAT,
    data_made_from,
    dataset_source,
    library_versions,
    read_run,
)
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses
from kfp_osft.stages.export_model.artifact import ModelArtifact, artifact_metadata, fill_artifact
from kfp_osft.stages.export_model.carried_files import base_model_folder
from kfp_osft.stages.export_model.checkpoint_checks import problem_of
from kfp_osft.stages.export_model.model_card import CARD, CardFacts, license_of, model_card
from kfp_osft.stages.export_model.model_files import BaseModel, write_model
from kfp_osft.stages.export_model.placing import let_others_read, show_as
from kfp_osft.stages.export_model.run_parameters import training_parameters
from kfp_osft.stages.export_model.told_places import dataset_told, lasting_name, without_places_of_the_run
from kfp_osft.stages.export_model.weights import base_weights, share_weights

#: On the PVC, by the name that today's component gives it: a link to the model of the last run.
FINAL_MODEL = "final_model"
COMPLETED = "training completed"


class _Training(NamedTuple):
    """What is known of the training."""

    run: dict[str, Any]
    made_from: dict[str, Any]
    base: BaseModel
    source: dict[str, str]


def export_model(checkpoint_dir: str, pvc_path: str, output_model: ModelArtifact) -> str:
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

    Returns:
        "training completed".

    Raises:
        InputError: no sound checkpoint, or a workspace that cannot be written or is full.
    """
    workspace = writable_folder("pvc_path", pvc_path)
    use_workspace(workspace)
    folder = Path(checkpoint_dir)
    steps = _steps(folder)
    losses = validation_losses(steps, loss_after_the_last_step(folder))
    training = _training(folder)
    restore_replaced(folder / "hf_format")
    checkpoint = first_sound(folder, checkpoints(folder, steps, losses), _check_against(training.base))
    published = _published_run(folder, training, checkpoint, figures(folder, steps, training.run or None))
    name = f"{Path(training.base.name).name or 'model'}-osft"

    final_model = workspace / FINAL_MODEL
    model = workspace / MODELS / folder.absolute().name
    with _told_when_full(workspace), replacing_folder(model) as unfinished:
        write_model(checkpoint.folder, training.base, unfinished)
        write_json(unfinished / RUN_FILE, published)
        (unfinished / CARD).write_text(_card(name, training, checkpoint, published), encoding="utf-8")
        let_others_read(unfinished)
    share_weights(model, checkpoint.folder)
    with _told_when_full(Path(output_model.path)):
        fill_artifact(output_model, model)
    with _told_when_full(workspace):
        show_as(final_model, model)
    log(
        f"Model of checkpoint {checkpoint.description}, the {'best of' if losses else 'last of'} "
        f"{len(list(folder.glob('hf_format/samples_*')))}: {final_model}"
    )

    output_model.metadata.update(artifact_metadata(name, output_model, final_model, checkpoint_dir, published))
    return COMPLETED


def _steps(folder: Path) -> list[dict]:
    """The trainer's steps; a model is not withheld because its metrics are broken, which collect_metrics tells."""
    try:
        return read_steps(folder)
    except InputError as error:
        log(f"Warning: the checkpoint is chosen without the metrics: {error}")
        return []


def _training(folder: Path) -> _Training:
    run = read_run(folder) or {}
    made_from = data_made_from(run)
    path = run.get("osft", {}).get("model_path", "")
    about, base, revision = run.get("about", {}), _base(made_from), _base(made_from).get("revision")
    base_folder = base_model_folder(path, revision) if path else None
    base_model = BaseModel(
        about.get("base_model", path), base_folder, base_weights(path, revision, base_folder), base.get("files") or {}
    )
    return _Training(run, made_from, base_model, dataset_source(about.get("dataset", "")))


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
    folder: Path, training: _Training, checkpoint: Checkpoint, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """The content of the model's osft_run.json: launch_trainjob's, and what it takes to run it again."""
    run, made_from = training.run, training.made_from
    dataset = dataset_told(run.get("about", {}).get("dataset", ""), training.source)
    held_out = run.get("about", {}).get("validation_dataset", "")
    if digests := made_from.get("dataset"):
        dataset |= {"digests": digests, "fingerprint": fingerprint(digests)}
    return {
        "format": RUN_FORMAT,
        **without_places_of_the_run(run),
        "base_model": {"name": lasting_name(training.base.name), **_base(made_from)},
        "dataset": dataset,
        **({"validation": dataset_told(held_out, dataset_source(held_out))} if held_out else {}),
        "parameters": training_parameters(run, bool(made_from.get("processed"))) if run else {},
        "checkpoint": {
            "name": checkpoint.folder.name,
            "samples": checkpoint.samples,
            "step": checkpoint.step,
            "validation_loss": checkpoint.validation_loss,
        },
        "metrics": dict(metrics),
        "library_versions": library_versions(folder),
    }


def _card(name: str, training: _Training, checkpoint: Checkpoint, published: Mapping[str, Any]) -> str:
    return model_card(
        CardFacts(
            name=name,
            base_model=training.base.name,
            dataset=training.source.get("hub") or training.source.get("uri") or published["dataset"]["name"],
            is_hub_dataset="hub" in training.source,
            checkpoint=f"checkpoint {checkpoint.description}",
            parameters={key: value for key, value in published["parameters"].items() if key != "training_base_model"},
            metrics={key: value for key, value in published["metrics"].items() if key not in PARAMETERS.values()},
            versions=published["library_versions"],
            license=license_of(training.base.folder) if training.base.folder else {},
        )
    )


@contextlib.contextmanager
def _told_when_full(place: Path) -> Iterator[None]:
    """A full file system is the user's to mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{place}: the model does not fit there: {error.strerror}") from None
