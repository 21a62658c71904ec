"""kfp-osft run --from osft_run.json: the run that made a model, to be run again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.pipelines.run_folders import checkpoints_of
from kfp_osft.shared.files.manifests import file_digest, sampled_digest
from kfp_osft.shared.model.folder import model_folder
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import SECRET
from kfp_osft.shared.rows.files import dataset_files
from kfp_osft.shared.training.run_file import FINAL_MODEL, RUN_FILE, RUN_FORMAT, read_run, wrong_field
from kfp_osft.shared.training.versions import installed_versions


class RepeatedRun(NamedTuple):
    """What run_locally takes."""

    dataset: str
    dataset_split: str
    training: dict[str, Any]
    validation_uri: str
    validation_uri_split: str


def repeated_run(
    path: Path,
    dataset: str | None,
    dataset_split: str | None,
    training: Mapping[str, Any],
    validation_uri: str | None = None,
    validation_uri_split: str | None = None,
) -> RepeatedRun:
    """The run that the file tells of; what is given beside it takes the place of what it says.

    Base model and rows are those of the run: of the Hugging Face Hub at the same commit, from a registry by digest, on
    this computer by the digests of their files. A published file names no folders; those of a run of this computer
    stand in the osft_run.json beside its checkpoints, which is looked for around the model.

    Args:
        path: osft_run.json of an exported model, the model's folder, or the output folder that holds it.
        dataset: path or dataset_uri, or None for the run's.
        dataset_split: split of a Hugging Face dataset, or None for the run's.
        training: training parameters by name that are given.
        validation_uri: rows to hold out, or None for the run's.
        validation_uri_split: split of these, or None for the run's.

    Raises:
        InputError: the file is something else; the run's dataset, held-out rows or base model cannot be had, and no
            other is given.
    """
    path = _run_file(path)
    run = _read(path)
    checkpoints = checkpoints_of(path.parent, run)
    own = (read_run(checkpoints) if checkpoints else None) or {}
    about = own.get("about", {})
    parameters = {**run["parameters"], **training}
    missing = []
    if "training_base_model" not in training:
        try:
            parameters["training_base_model"] = _base_model_of(run, own)
        except InputError as error:
            missing.append(str(error))
    else:
        _compare_base_model(str(training["training_base_model"]), run)
    if dataset is None:
        try:
            dataset, split = _rows_of(run["dataset"], about.get("dataset", ""), "rows", "--dataset")
            dataset_split = dataset_split or split
        except InputError as error:
            missing.append(str(error))
    else:
        _compare_rows(dataset, run["dataset"])
    then = run.get("validation") or {}
    if validation_uri is None and then:
        try:
            place = about.get("validation_dataset", "")
            validation_uri, split = _rows_of(then, place, "held-out rows", "--validation-uri")
            validation_uri_split = validation_uri_split or split
        except InputError as error:
            missing.append(str(error))
    elif validation_uri:
        _compare_rows(validation_uri, then)
    if missing or dataset is None:
        raise InputError(f"--from={path}: {'; '.join(missing)}")
    _tell_other_versions(run)
    return RepeatedRun(
        dataset, dataset_split or "train", parameters, validation_uri or "", validation_uri_split or "validation"
    )


def _run_file(path: Path) -> Path:
    """The file itself, that in a model's folder, or that of the model in an output folder."""
    for file in (path / RUN_FILE, path / FINAL_MODEL / RUN_FILE):
        if file.is_file():
            return file
    return path / FINAL_MODEL / RUN_FILE if path.is_dir() else path


def _read(path: Path) -> dict[str, Any]:
    what = f"--from={path}"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{what} is not a JSON file") from None
    try:
        parameters, run_format = run["parameters"], run["format"]
        known = isinstance(run["dataset"], dict) and isinstance(run["base_model"]["name"], str)
    except (LookupError, TypeError):
        known, parameters, run_format = False, None, None
    if not known or not isinstance(parameters, dict) or not parameters:
        raise InputError(
            f"{what} does not describe a run; allowed: the {RUN_FILE} of an exported model, the model's folder, or the "
            "output folder of a run (the file beside the checkpoints holds less)"
        )
    if wrong := wrong_field(run):
        raise InputError(f"{what} is not what export_model writes: {wrong}")
    if run_format != RUN_FORMAT:
        raise InputError(f"{what} has the format {run_format!r}; this version of kfp-osft reads {RUN_FORMAT}")
    unknown = sorted(parameters.keys() - {parameter.name for parameter in ALL_PARAMETERS})
    if unknown:
        raise InputError(f"{what}: {', '.join(unknown)}: not a training parameter of this version of kfp-osft")
    return run


def _base_model_of(run: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The run's base model, pinned.

    Raises:
        InputError: it was a folder, and is not there or not the same any more.
    """
    base = run["base_model"]
    if base.get("revision"):
        return f"{base['id']}@{base['revision']}"
    name = base["name"]
    if base.get("oci"):
        registry, _, repository = name.rpartition("/")
        return f"{registry}/{repository.partition('@')[0].partition(':')[0]}@{base['oci']}"
    if given := run["parameters"].get("training_base_model"):
        return given
    place = own.get("osft", {}).get("model_path", "")
    if not place or not Path(place).is_dir():
        raise InputError(f"the run's base model, the folder {name}, is not on this computer; give --base-model")
    if changed := _other_files(Path(place), base):
        raise InputError(
            f"the run's base model {place} is not what it was ({', '.join(changed)}); give --base-model with the one "
            "of then, or with this one for another training"
        )
    return place


def _compare_base_model(given: str, run: Mapping[str, Any]) -> None:
    folder, base = model_folder(given), run["base_model"]
    if folder is not None and folder.is_dir() and base.get("files"):
        if changed := _other_files(folder, base):
            log(
                f"Warning: {', '.join(changed)} of the base model {given} is not what the run trained: this will be "
                "another training"
            )
    elif given not in (base["name"], f"{base.get('id')}@{base.get('revision')}"):
        log(f"Warning: the run trained {base['name']}, not {given}: this will be another training")


def _other_files(folder: Path, base: Mapping[str, Any]) -> list[str]:
    """Files of a base model that are missing or have another content than then."""
    changed = [
        name
        for name, digest in (base.get("files") or {}).items()
        if not (folder / name).is_file() or file_digest(folder / name) != digest
    ]
    for name, (size, digest) in (base.get("weights") or {}).items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size or sampled_digest(file) != digest:
            changed.append(name)
    return changed


def _rows_of(then: Mapping[str, Any], place: str, what: str, option: str) -> tuple[str, str | None]:
    """Rows of the run: where they lie, or where they came from, with the split.

    Args:
        then: what the run's file says of them.
        place: where they were on this computer, or empty.
        what: they are, for people.
        option: by which others are given.

    Raises:
        InputError: they were files of this computer, and are not there or not the same any more.
    """
    if place and Path(place).exists() and _same_rows(Path(place), then.get("digests") or ()):
        return place, None
    uri, name = then.get("uri") or "", then.get("name") or "(not known)"
    if SECRET in uri:
        raise InputError(
            f"the run's {what}, {uri}, had something secret in their address, which is not recorded; give {option}"
        )
    # The Hub's has the commit in it.
    if "://" in uri:
        return uri, then.get("split")
    gone = "are not what they were any more" if place and Path(place).exists() else "are not on this computer"
    raise InputError(f"the run's {what}, {name}, {gone}; give {option}")


def _compare_rows(given: str, then: Mapping[str, Any]) -> None:
    place = Path(given).expanduser()
    if place.exists() and then.get("digests") and not _same_rows(place, then["digests"]):
        log(f"Warning: the rows in {place} are not those of the run: this will be another training")


def _same_rows(dataset: Path, digests: Sequence[Any]) -> bool:
    now = [file_digest(file) for file in dataset_files(dataset)]
    return not digests or sorted(now) == sorted(map(str, digests))


def _tell_other_versions(run: Mapping[str, Any]) -> None:
    then = run.get("library_versions") or {}
    now = installed_versions(list(then))
    other = [f"{library} {now[library]} (then {then[library]})" for library in now if now[library] != then[library]]
    if other:
        log(f"Other versions than those of the run, so figures may differ: {', '.join(other)}")
