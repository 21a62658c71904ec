"""The model as a KFP artifact: its files, and the metadata that says what it was made from."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from kfp_osft.shared.files.artifacts import OutputArtifact, is_uploaded
from kfp_osft.shared.files.run_workspace import goes_with_the_run
from kfp_osft.stages.export_model.placing import let_others_read, place_files

#: Of the metadata, those that say which model it is and where.
PLACES = ("model_name", "artifact_path", "pvc_model_dir", "checkpoint")


class ModelArtifact(OutputArtifact, Protocol):
    """What is used of a KFP Model artifact."""

    metadata: dict[str, Any]


def fill_artifact(artifact: OutputArtifact, model: Path) -> None:
    """Fills the artifact's folder with the model of this run.

    Where KFP uploads it, the folder holds links to files of the workspace: a copy of a large model would not fit on the
    pod's own disk.

    Args:
        model: the run's own folder of it. Not final_model: that may be another run's by the time of the upload.
    """
    folder = Path(artifact.path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if not is_uploaded(artifact):
        place_files(model, folder)
        let_others_read(folder)
        return
    for file in sorted(model.rglob("*")):
        place = folder / file.relative_to(model)
        if file.is_dir():
            place.mkdir()
        else:
            place.symlink_to(file.absolute())


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
        # A path of a pod is gone with the pod, the URI stays. Red Hat's component for the model registry registers it,
        # for KServe to load from: KServe knows s3://, and not KFP's word for an S3 store of its own.
        "artifact_path": re.sub(r"^minio://", "s3://", artifact.uri),
        "base_model": published["base_model"]["name"],
        "dataset": dataset.get("uri") or dataset["name"],
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
