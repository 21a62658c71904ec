"""The training parameters that a run was started with, from what the run was made of."""

import math
from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.model.folder import is_folder_name
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS

# The next number below 1, which check_parameters passes on for it.
_ALL_FREE = math.nextafter(1.0, 0.0)
# Of the run's arguments, those that the stages set: folders of this run, and that its rows are tokenized by now.
_OWN_ARGUMENTS = ("data_path", "data_output_dir", "ckpt_output_dir", "use_processed_dataset")


def training_parameters(run: Mapping[str, Any], was_processed: bool = False) -> dict[str, Any]:
    """The inverse of check_parameters: values by the contract's names, in their types.

    What was not passed is not in it, so that the same default holds again.

    Args:
        run: what read_run gives.
        was_processed: whether the dataset held input_ids and labels already.
    """
    osft = {key: value for key, value in run["osft"].items() if key not in _OWN_ARGUMENTS}
    if base_model := run["about"].get("base_model"):
        osft["model_path"] = base_model
    if run["about"].get("uses_family_patterns"):
        osft.pop("target_patterns", None)
    if osft.get("unfreeze_rank_ratio") == _ALL_FREE:
        osft["unfreeze_rank_ratio"] = 1.0
    if was_processed:
        osft["use_processed_dataset"] = True
    places = {"osft": osft, "trainjob": run.get("trainjob") or {}, "data": run.get("data") or {}}
    parameters = {}
    for parameter in ALL_PARAMETERS:
        place, _, key = parameter.goes_to.partition(".")
        value = run.get("env") or None if place == "env" else places.get(place, {}).get(key)
        if value is not None:
            parameters[parameter.name] = _as_given(value) if parameter.type is str else value
    return parameters


def with_effect(parameters: Mapping[str, Any], on_this_computer: bool) -> dict[str, Any]:
    """Those of a run's parameters that made the model what it is, for people to read.

    Left out are the base model (told elsewhere), what only decides whether a run may go on or what it shows, what is
    about pods where there were none, what changes nothing at its value, and what another parameter switched off.
    """
    shown = {}
    for parameter in ALL_PARAMETERS:
        place = parameter.goes_to.partition(".")[0]
        if parameter.name not in parameters or place in ("data", "") or parameter.goes_to == "osft.model_path":
            continue
        if place == "trainjob" and (on_this_computer or parameter.goes_to != "trainjob.runtime"):
            continue
        value = parameters[parameter.name]
        if value is False or (parameter.name == "training_lr_warmup_steps" and value == 0):
            continue
        shown[parameter.name] = value
    if shown.get("training_use_processed_dataset"):
        shown.pop("training_unmask_messages", None)
    return shown


def without_folder(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without a base model that is a folder: its path is nobody else's business."""
    is_folder = is_folder_name(str(parameters.get("training_base_model", "")))
    return {key: value for key, value in parameters.items() if not (is_folder and key == "training_base_model")}


def _as_given(value: Any) -> str:
    """Lists and maps as the parameters take them: a,b and KEY=VAL,KEY=VAL."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_as_given(each)}".replace(",", "\\,") for key, each in value.items())
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
