"""osft_run.json: what a training was made from, and what came of it.

launch_trainjob writes it beside the checkpoints when a training has ended well. The one that export_model puts into
the model's folder holds more: all that it takes to run it again (kfp-osft run --from).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.errors import InputError

RUN_FILE = "osft_run.json"
#: Folder of the workspace: the model of each run, by the name of its folder of checkpoints.
MODELS = "models"
#: In the workspace, by the name that today's component gives it: a link to the model of the last run.
FINAL_MODEL = "final_model"
#: Folder of the workspace: the checkpoints of each run, by the beginning of its fingerprint.
CHECKPOINTS = "checkpoints"
#: In the folder of a run's data: what preprocess made it from.
DATA_MANIFEST = "manifest.json"
#: What the training printed, beside it.
TRAINING_LOG = "training.log"
#: Of the published file, and raised when a reader of an older one would be misled.
RUN_FORMAT = 2
# kfp_osft.stages.launch_trainjob.train_result.VERSIONS_FILE, without that script in the stages that only read it.
_VERSIONS_FILE = "library_versions.json"


def read_run(folder: Path) -> dict[str, Any] | None:
    """What launch_trainjob wrote there, or None: another training's folder.

    Its fields: fingerprint, trainjob_name, seconds (wall-clock of the training), osft (arguments of
    training_hub.osft), trainjob (resources and workers), data (what preprocess did with the rows), env (environment of
    the training, without secrets), about (base_model, dataset, and preprocess' counts of rows and tokens), pipeline_run
    (id and name of the last run that used the training).

    Raises:
        InputError: the file is something else.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(run["osft"], dict) and isinstance(run["about"], dict):
            return run
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise InputError(f"{path} is not what launch_trainjob writes")


def required_run(folder: Path) -> dict[str, Any]:
    """What read_run gives.

    Raises:
        InputError: there is no such file.
    """
    run = read_run(folder)
    if run is None:
        raise InputError(f"{folder} has no {RUN_FILE}: it is not known what was trained there")
    return run


def is_local(run: Mapping[str, Any]) -> bool:
    """Whether the training ran on this computer, by the name that launch_trainjob gave it."""
    return str(run.get("trainjob_name", "")).startswith("local-")


def data_made_from(osft: Mapping[str, Any]) -> dict[str, Any]:
    """What preprocess made the data from (digests of rows and base model), or {} where its manifest is gone.

    Args:
        osft: the run's.
    """
    folder = osft.get("data_output_dir")
    made_from = (_json(Path(folder) / DATA_MANIFEST) if folder else {}).get("made_from")
    return made_from if isinstance(made_from, dict) else {}


def dataset_source(dataset_path: str) -> dict[str, str]:
    """Where rows that resolve_dataset brought into the workspace came from; {} for rows that are used where they lie.

    Returns:
        uri, as dataset_uri takes it, without what may be secret in it; split, where the rows are one of several; of a
        Hugging Face dataset also hub (the id) and commit; of an S3 store that is not AWS's, endpoint.
    """
    if not dataset_path:
        return {}
    path = Path(dataset_path)
    # The file, the folder, or the folder of a split is what was fetched, or a part of it.
    for folder in (path, *path.parents[:2]):
        source = _json(folder / ".manifest.json").get("source")
        if isinstance(source, dict) and "uri" in source:
            is_split = (path.parent / "dataset_dict.json").is_file()
            return {**({"split": path.name} if is_split else {}), **source}
    return {}


def library_versions(checkpoint_dir: Path) -> dict[str, str]:
    """Versions of the libraries that trained, as they were where the training ran; {} where it did not say them."""
    return {str(name): str(version) for name, version in _json(checkpoint_dir / _VERSIONS_FILE).items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
