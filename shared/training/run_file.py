"""osft_run.json: what a training was made from, and what came of it.

launch_trainjob writes it beside the checkpoints when a training has ended well. The one that export_model puts into
the model's folder holds more: all that it takes to run it again (kfp-osft run --from).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import read_json_object
from kfp_osft.shared.parameters.environment import LOCAL
from kfp_osft.shared.reporting.errors import InputError, kind_of

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
_MISSING = object()
# What is of which kind where it is there; objects first, as others lie in them.
_FIELDS: dict[tuple[type | tuple[type, ...], str], str] = {
    (dict, "an object"): "osft about trainjob data env pipeline_run parameters metrics base_model base_model.files "
    "base_model.weights dataset validation evaluation evaluation.metrics library_versions",
    (list, "a list"): "lineage warnings dataset.digests validation.digests",
    (str, "a string"): "trainjob_name model_name osft.model_path osft.data_output_dir about.base_model "
    "about.dataset about.validation_dataset base_model.name base_model.id base_model.revision base_model.oci "
    "dataset.name dataset.uri dataset.hub dataset.split dataset.fingerprint validation.name validation.uri "
    "validation.split pipeline_run.id pipeline_run.name",
    ((int, float), "a number"): "seconds osft.unfreeze_rank_ratio osft.effective_batch_size osft.max_seq_len "
    "osft.learning_rate osft.seed about.rows about.samples about.too_long about.too_short about.validation_samples",
}


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
    run = read_json_object(path)
    if not {"osft", "about"} <= run.keys():
        raise InputError(f"{path} is not what launch_trainjob writes")
    if wrong := wrong_field(run):
        raise InputError(f"{path} is not what launch_trainjob writes: {wrong}")
    return run


def wrong_field(run: Mapping[str, Any]) -> str | None:
    """What is of another kind than its readers take for granted, as "seconds is a string, not a number"; None where
    nothing is.

    Args:
        run: content of the file beside the checkpoints, or of a published one.
    """
    for (kinds, words), fields in _FIELDS.items():
        for field in fields.split():
            value: Any = run
            for key in field.split("."):
                value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
            if value is not _MISSING and (not isinstance(value, kinds) or isinstance(value, bool)):
                return f"{field} is {kind_of(value)}, not {words}"
    for number, each in enumerate(run.get("lineage", ())):
        if not isinstance(each, dict):
            return f"lineage[{number}] is {kind_of(each)}, not an object"
        if wrong := wrong_field(each):
            return f"lineage[{number}].{wrong}"
    return None


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
    return str(run.get("trainjob_name", "")).startswith(f"{LOCAL}-")


def data_made_from(osft: Mapping[str, Any]) -> dict[str, Any]:
    """What preprocess made the data from (digests of rows and base model), or {} where its manifest is gone.

    Args:
        osft: the run's.
    """
    folder = osft.get("data_output_dir")
    made_from = (read_json_object(Path(folder) / DATA_MANIFEST) if folder else {}).get("made_from")
    return made_from if isinstance(made_from, dict) and isinstance(made_from.get("base_model", {}), dict) else {}


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
        source = read_json_object(folder / ".manifest.json").get("source")
        if isinstance(source, dict) and "uri" in source:
            is_split = (path.parent / "dataset_dict.json").is_file()
            return {**({"split": path.name} if is_split else {}), **source}
    return {}


def library_versions(checkpoint_dir: Path) -> dict[str, str]:
    """Versions of the libraries that trained, as they were where the training ran; {} where it did not say them."""
    return {str(name): str(version) for name, version in read_json_object(checkpoint_dir / _VERSIONS_FILE).items()}
