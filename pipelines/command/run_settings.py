"""What a run is to do: the options, over a config file, over the run that --from names."""

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.command.config_file import EXTENSIONS, OUTPUT_DIR, read_config
from kfp_osft.pipelines.command.parameter_options import (
    DECLARED,
    EVALUATE,
    EVALUATION,
    PARAMETERS,
    ROW_OPTIONS,
    option_of,
)
from kfp_osft.pipelines.parameter_groups import IN_ORDER, has_effect_here
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.formats import has_data_extension

DEFAULT_OUTPUT_DIR = "kfp-osft-output/run"
_SPLITS = {"dataset_split": "train", "validation_uri_split": "validation"}
#: What org/name, or org/name/config of a dataset, has at most.
_MOST_SLASHES = {"training_base_model": 1, "dataset_uri": 2, "validation_uri": 2}


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run.

    Attributes:
        rows: dataset_uri, dataset_split, validation_uri, validation_uri_split, as osft_pipeline takes them.
        training: training parameters by name; those that are not given are missing.
        output_dir: folder of the results.
        typed: what the user called a setting, by its parameter name.
        evaluation: parameters of the evaluation at the end by name; None for a run without one.
    """

    rows: dict[str, str]
    training: dict[str, Any]
    output_dir: Path
    typed: dict[str, str] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None

    @property
    def holds_out_rows(self) -> bool:
        """Whether there are rows to evaluate the model by."""
        return bool(self.rows["validation_uri"] or self.training.get("training_validation_split"))

    def all(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """Everything, for a config file, with these training parameters."""
        rows = {name: value for name, value in self.rows.items() if value and value != _SPLITS.get(name)}
        known = [parameter.name for parameter in IN_ORDER if parameter.name in training]
        evaluation = {} if self.evaluation is None else {EVALUATE.name: True, **self.evaluation}
        return {**rows, OUTPUT_DIR: str(self.output_dir), **{name: training[name] for name in known}, **evaluation}

    def tell_without_effect(self) -> None:
        """Logs the given settings that mean something only on a cluster."""
        given = [name for name in self.training if name in self.typed]
        without = [self.typed[name] for name in given if not has_effect_here(PARAMETERS[name])]
        if without:
            log(f"Without effect on this computer: {', '.join(without)}")


def run_settings(options: argparse.Namespace) -> RunSettings:
    """The settings that options, config file and --from give.

    Raises:
        InputError: a config file that cannot be used, no rows, more than one dataset, a path where nothing is,
            parameters of an evaluation that the run does not make.
    """
    config, dataset = _positional(options)
    given, typed = read_config(config) if config else ({}, {})
    for name, value in _of_options(options, dataset).items():
        given[name] = value
        typed[name] = options.typed.get(name) or option_of(name)
    output_dir = given.pop(OUTPUT_DIR, None)
    output_dir = Path(options.output_dir or output_dir or DEFAULT_OUTPUT_DIR)
    for name, slashes in _MOST_SLASHES.items():
        if name in given:
            check_local_path(typed[name], given[name], slashes)
    rows = {name: given.pop(name) for name in ROW_OPTIONS if name in given}
    evaluation = _evaluation(given, typed)
    if options.run_file is None and "dataset_uri" not in rows:
        raise InputError("no rows to train on; give a file, as in: kfp-osft run rows.jsonl")
    base_model = given.get("training_base_model")
    if base_model and Path(base_model).expanduser().exists():
        # Symbolic links are kept: final_model means the last run's model.
        given["training_base_model"] = str(Path(base_model).expanduser().absolute())
    if options.run_file is not None:
        rows, given = _repeated(options.run_file, rows, given)
    return RunSettings({**_SPLITS, "validation_uri": "", **rows}, given, output_dir, typed, evaluation)


def _evaluation(given: dict[str, Any], typed: Mapping[str, str]) -> dict[str, Any] | None:
    """Takes what is about the evaluation out of the settings."""
    evaluate = given.pop(EVALUATE.name, None)
    evaluation = {name: given.pop(name) for name in EVALUATION if name in given}
    if evaluation and evaluate is None:
        raise InputError(f"{typed[next(iter(evaluation))]} needs --{EVALUATE.name}")
    return evaluation if evaluate else None


def check_local_path(called: str, value: str, most_slashes: int) -> None:
    """Refuses a path of this computer where nothing is, so that it is not looked up on the Hugging Face Hub.

    Args:
        called: what the user called the setting.
        value: its value; another address than a path is fine.
        most_slashes: of a Hub id.

    Raises:
        InputError: naming the path, and a similar one beside it.
    """
    if "://" in value or not value.strip():
        return
    path = Path(value).expanduser()
    hub_id = value.partition("@")[0]
    looks_local = (
        value.startswith(("/", ".", "~"))
        or value.endswith("/")
        or hub_id.count("/") > most_slashes
        or has_data_extension(value)
        or (len(path.parts) > 1 and Path(path.parts[0]).is_dir())
    )
    if path.exists() or not looks_local:
        return
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    if not path.parent.is_dir():
        hint = f", nor a folder {path.parent}"
    raise InputError(f"{called} {value}: there is no such file or folder on this computer{hint}")


def _positional(options: argparse.Namespace) -> tuple[Path | None, str | None]:
    """The config file and the dataset among the arguments without an option."""
    configs = [given for given in options.arguments if given.endswith(EXTENSIONS)]
    datasets = [given for given in options.arguments if given not in configs]
    for several, what in ((configs, "config file"), (datasets, "dataset")):
        if len(several) > 1:
            raise InputError(f"one {what} at a time; given are {' and '.join(several)}")
    if datasets and options.dataset_uri is not None:
        raise InputError(f"two datasets are given: {datasets[0]}, and --dataset {options.dataset_uri}")
    return (Path(configs[0]).expanduser() if configs else None), (datasets[0] if datasets else None)


def _of_options(options: argparse.Namespace, dataset: str | None) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in (*ROW_OPTIONS, *DECLARED)}
    values["dataset_uri"] = dataset or values["dataset_uri"]
    return {name: value for name, value in values.items() if value is not None}


def _repeated(
    run_file: Path, rows: Mapping[str, str], training: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    from kfp_osft.pipelines.local.repeated_run import repeated_run

    run = repeated_run(
        run_file,
        rows.get("dataset_uri"),
        rows.get("dataset_split"),
        training,
        rows.get("validation_uri"),
        rows.get("validation_uri_split"),
    )
    found = {
        "dataset_uri": run.dataset,
        "dataset_split": run.dataset_split,
        "validation_uri": run.validation_uri,
        "validation_uri_split": run.validation_uri_split,
    }
    return found, run.training
