"""export_model: publishes the trained model on the PVC and as an artifact, whole or not at all."""

import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.atomic import replacing_folder, writable_folder, write_json
from kfp_osft.shared.files.manifests import file_digest, fingerprint
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.checkpoints import Checkpoint, checkpoints, first_sound
from kfp_osft.shared.training.figures import PARAMETERS, figures
from kfp_osft.shared.training.metrics import read_steps
from kfp_osft.shared.training.run_file import (
    RUN_FILE,
    RUN_FORMAT,
    data_made_from,
    dataset_source,
    library_versions,
    read_run,
)
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses
from kfp_osft.stages.export_model.artifact import ModelArtifact, artifact_metadata, fill_artifact
from kfp_osft.stages.export_model.carried_files import base_model_folder, carried_over, tensor_shapes
from kfp_osft.stages.export_model.checkpoint_checks import problem_of
from kfp_osft.stages.export_model.model_card import CARD, CardFacts, license_of, model_card
from kfp_osft.stages.export_model.placing import let_others_read, place_files
from kfp_osft.stages.export_model.run_parameters import training_parameters
from kfp_osft.stages.export_model.told_places import dataset_told, lasting_name, without_places_of_the_run

#: Folder on the PVC, by the name that today's component gives it.
FINAL_MODEL = "final_model"
COMPLETED = "training completed"


class _Training(NamedTuple):
    """What is known of the training."""

    run: dict[str, Any]
    made_from: dict[str, Any]
    base_model: str
    base_folder: Path | None
    source: dict[str, str]


def export_model(checkpoint_dir: str, pvc_path: str, output_model: ModelArtifact) -> str:
    """Publishes the best checkpoint as pvc_path/final_model and as the artifact.

    The best is the one with the lowest validation loss where there was a validation, else the last; one that is not
    whole or holds NaN is passed over. On the PVC the weights are hard links of the checkpoint's where the file system
    can, so they are there once. A final_model that was there before stays until the new one is whole.

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
    checkpoint = first_sound(folder, checkpoints(folder, steps, losses), _check_against(training.base_folder))
    published = _published_run(folder, training, checkpoint, figures(folder, steps, training.run or None))
    name = f"{Path(training.base_model).name or 'model'}-osft"

    final_model = workspace / FINAL_MODEL
    with _told_when_full(workspace), replacing_folder(final_model) as unfinished:
        place_files(checkpoint.folder, unfinished)
        _carry_over(training, unfinished)
        _switch_cache_on(unfinished / "config.json")
        write_json(unfinished / RUN_FILE, published)
        (unfinished / CARD).write_text(_card(name, training, checkpoint, published), encoding="utf-8")
        let_others_read(unfinished)
        with _told_when_full(Path(output_model.path)):
            fill_artifact(output_model, unfinished, final_model, folder)
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
    base_model = run.get("about", {}).get("base_model", path)
    base_folder = base_model_folder(path, _base(made_from).get("revision")) if path else None
    return _Training(run, made_from, base_model, base_folder, dataset_source(run.get("about", {}).get("dataset", "")))


def _base(made_from: Mapping[str, Any]) -> dict[str, Any]:
    base = made_from.get("base_model")
    return base if isinstance(base, dict) else {}


def _check_against(base_folder: Path | None) -> Callable[[Path], str | None]:
    """The check of a checkpoint, with the base model's shapes where they can be read without fetching weights."""
    shapes: dict[str, list[int]] = {}
    vocabulary = None
    if base_folder is not None:
        try:
            shapes = tensor_shapes(base_folder)
            vocabulary = json.loads((base_folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
        except (InputError, OSError, ValueError, AttributeError):
            # It could be read when the training began; that it cannot be now is no fault of the checkpoint.
            pass
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
        "base_model": {"name": lasting_name(training.base_model), **_base(made_from)},
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
            base_model=training.base_model,
            dataset=training.source.get("hub") or training.source.get("uri") or published["dataset"]["name"],
            is_hub_dataset="hub" in training.source,
            checkpoint=f"checkpoint {checkpoint.description}",
            parameters={key: value for key, value in published["parameters"].items() if key != "training_base_model"},
            metrics={key: value for key, value in published["metrics"].items() if key not in PARAMETERS.values()},
            versions=published["library_versions"],
            license=license_of(training.base_folder) if training.base_folder else {},
        )
    )


def _carry_over(training: _Training, folder: Path) -> None:
    """Puts the base model's own tokenizer files in place of those that mini-trainer wrote anew from them (which hold
    its paths and its version's names), and the generation settings and the licence, which it does not save."""
    if training.base_folder is None:
        return
    digests = _base(training.made_from).get("files") or {}
    for name, file in carried_over(training.base_folder).items():
        if name in digests and file_digest(file) != digests[name]:
            log(
                f"Warning: {file} has changed since the training; the model goes without it"
                + (", with the one that the trainer saved" if (folder / name).exists() else "")
            )
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, folder / name)


def _switch_cache_on(config_file: Path) -> None:
    """mini-trainer switches it off for the training; without it generating takes many times as long."""
    write_json(config_file, {**json.loads(config_file.read_text(encoding="utf-8")), "use_cache": True})


@contextlib.contextmanager
def _told_when_full(place: Path) -> Iterator[None]:
    """A full file system is the user's to mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{place}: the model does not fit there: {error.strerror}") from None
