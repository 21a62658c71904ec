"""kfp-osft run --from osft_run.json: the run that made a model, to be run again."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.manifests import file_digest
from kfp_osft.shared.model.folder import model_folder
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import SECRET
from kfp_osft.shared.rows.files import dataset_files
from kfp_osft.shared.training.run_file import RUN_FILE, RUN_FORMAT


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

    Rows, base model or libraries that are others than then are told: the result will be another one.

    Args:
        path: osft_run.json of an exported model, or the model's folder.
        dataset: path or dataset_uri, or None for the run's.
        dataset_split: split of a Hugging Face dataset, or None for the run's.
        training: training parameters by name that are given.
        validation_uri: rows to hold out, or None for the run's.
        validation_uri_split: split of these, or None for the run's.

    Raises:
        InputError: the file is something else; the run's dataset, held-out rows or base model is gone, and no other
            is given.
    """
    path = path / RUN_FILE if path.is_dir() else path
    run = _read(path)
    parameters = {**run["parameters"], **training}
    if "training_base_model" not in training:
        _check_base_model(path, run)
    if dataset is None:
        dataset, split = _rows_of(path, run["dataset"], "dataset", "--dataset")
        dataset_split = dataset_split or split
    if validation_uri is None and run.get("validation"):
        validation_uri, split = _rows_of(path, run["validation"], "validation dataset", "--validation-uri")
        validation_uri_split = validation_uri_split or split
    _tell_other_versions(run)
    return RepeatedRun(
        dataset, dataset_split or "train", parameters, validation_uri or "", validation_uri_split or "validation"
    )


def _read(path: Path) -> dict[str, Any]:
    what = f"--from={path}"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{what} is no JSON file") from None
    try:
        parameters, run_format = run["parameters"], run["format"]
        known = isinstance(run["dataset"]["name"], str) and isinstance(run["base_model"], dict)
    except (LookupError, TypeError):
        known = False
    if not known or not isinstance(parameters, dict) or not parameters:
        raise InputError(
            f"{what} does not tell a run; allowed: the {RUN_FILE} in the folder of an exported model "
            "(the one beside the checkpoints holds less)"
        )
    if run_format != RUN_FORMAT:
        raise InputError(f"{what} has the format {run_format!r}; this version of kfp-osft reads {RUN_FORMAT}")
    unknown = sorted(parameters.keys() - {parameter.name for parameter in ALL_PARAMETERS})
    if unknown:
        raise InputError(f"{what}: {', '.join(unknown)} is no training parameter of this version of kfp-osft")
    return run


def _rows_of(path: Path, then: Mapping[str, Any], what: str, option: str) -> tuple[str, str | None]:
    place = Path(then.get("path") or "")
    if then.get("path") and place.exists():
        now = [file_digest(file) for file in dataset_files(place)]
        if then.get("digests") and sorted(now) != sorted(_digest(each) for each in then["digests"]):
            log(f"Warning: the rows in {place} are not those of the run any more: this will be another training")
        return str(place), None
    uri = then.get("uri") or ""
    if SECRET in uri:
        raise InputError(
            f"--from={path}: the run's {what} {uri} had something secret in its address, which is not recorded; give "
            f"{option}"
        )
    if uri and ("://" in uri or Path(uri).exists()):
        return uri, then.get("split")
    told = then.get("path") or uri or then.get("name") or "(not known)"
    raise InputError(f"--from={path}: the run's {what} {told} is not on this computer; give {option}")


def _digest(recorded: Any) -> str:
    return recorded[-1] if isinstance(recorded, list) else str(recorded)


def _check_base_model(path: Path, run: Mapping[str, Any]) -> None:
    name, then = run["parameters"].get("training_base_model", ""), run["base_model"]
    folder = model_folder(name)
    if folder is None:
        if then.get("revision"):
            log(f"The run trained {name} at revision {then['revision']}; what the Hub gives now may be another")
        return
    if not folder.is_dir():
        raise InputError(f"--from={path}: the run's base model {name} is not on this computer; give --base-model")
    changed = [
        file
        for file, digest in (then.get("files") or {}).items()
        if not (folder / file).is_file() or file_digest(folder / file) != digest
    ]
    changed += [
        file
        for file, (size, *_) in (then.get("weights") or {}).items()
        if not (folder / file).is_file() or (folder / file).stat().st_size != size
    ]
    if changed:
        log(
            f"Warning: {', '.join(changed)} of the base model {name} is not what the run trained: this will be "
            "another training"
        )


def _tell_other_versions(run: Mapping[str, Any]) -> None:
    other = []
    for library, then in (run.get("library_versions") or {}).items():
        try:
            now = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
        if now != then:
            other.append(f"{library} {now} (then {then})")
    if other:
        log(f"Other versions than those of the run, so figures may differ: {', '.join(other)}")
