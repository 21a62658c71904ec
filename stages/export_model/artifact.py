"""The model as a KFP artifact: its files, and the metadata that says what it was made from."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from kfp_osft.shared.files.artifacts import OutputArtifact, is_uploaded
from kfp_osft.shared.files.atomic import replacing_folder
from kfp_osft.shared.files.run_workspace import goes_with_the_run
from kfp_osft.stages.export_model.placing import let_others_read, place_files

#: The run's own copy of what it exported, in its checkpoint folder: hard links, for KFP to upload.
EXPORTED_MODEL = "exported_model"


class ModelArtifact(OutputArtifact, Protocol):
    """What is used of a KFP Model artifact."""

    metadata: dict[str, Any]


def fill_artifact(artifact: OutputArtifact, model: Path, final_model: Path, checkpoint_dir: Path) -> None:
    """Fills the artifact's folder with the model of this run.

    Where KFP uploads it, the folder holds links to files of the workspace: a copy of a large model would not fit on the
    pod's own disk. final_model may be another run's by the time of the upload, so the links lead to names of the run's
    own where the file system has hard links.

    Args:
        model: the finished files, which become final_model.
        final_model: the folder that they become.
        checkpoint_dir: of the run.
    """
    folder = Path(artifact.path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if not is_uploaded(artifact):
        place_files(model, folder)
        let_others_read(folder)
        return
    own = checkpoint_dir.absolute() / EXPORTED_MODEL
    with replacing_folder(own) as unfinished:
        for file in sorted(model.rglob("*")):
            name = file.relative_to(model)
            if file.is_dir():
                (folder / name).mkdir()
                (unfinished / name).mkdir()
            else:
                kept = own if _is_linked(file, unfinished / name) else final_model.absolute()
                (folder / name).symlink_to(kept / name)


def _is_linked(file: Path, place: Path) -> bool:
    """Makes a hard link; False where the file system has none."""
    try:
        os.link(file, place)
    except OSError:
        return False
    return True


def artifact_metadata(
    name: str,
    artifact: OutputArtifact,
    final_model: Path,
    checkpoint_dir: str,
    published: Mapping[str, Any],
) -> dict[str, str | int | float]:
    """The metadata: strings and numbers, since KFP's backend hands lists and objects on in another form than it got.

    Args:
        name: of the model.
        final_model: the model's folder in the workspace.
        published: the content of the model's osft_run.json.

    Returns:
        model_name, artifact_path, base_model, dataset, checkpoint; pvc_model_dir and checkpoint_dir where they outlive
        the run; and, where they are known, data_fingerprint, library_versions, the training parameters and the metrics,
        each by its own name.
    """
    dataset = published["dataset"]
    told: dict[str, Any] = {
        "model_name": name,
        # A path of a pod is gone with the pod, the URI stays.
        "artifact_path": artifact.uri,
        "base_model": published["base_model"]["name"],
        "dataset": dataset.get("uri") or dataset.get("path") or dataset["name"],
        "checkpoint": published["checkpoint"]["name"],
        "data_fingerprint": dataset.get("fingerprint"),
        "library_versions": ", ".join(" ".join(each) for each in published["library_versions"].items()),
        **{key: value for key, value in published["parameters"].items() if key != "training_base_model"},
        **published["metrics"],
    }
    places = {"pvc_model_dir": str(final_model), "checkpoint_dir": checkpoint_dir}
    told |= {key: place for key, place in places.items() if not goes_with_the_run(place)}
    return {key: _flat(value) for key, value in told.items() if value not in (None, "")}


def _flat(value: Any) -> str | int | float:
    # MLMD has no booleans.
    return str(value).lower() if isinstance(value, bool) else value
