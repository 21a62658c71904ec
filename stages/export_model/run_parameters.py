"""The training parameters that a run was started with, from what the run was made of."""

from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS

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


def _as_given(value: Any) -> str:
    """Lists and maps as the parameters take them: a,b and KEY=VAL,KEY=VAL."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_as_given(each)}".replace(",", "\\,") for key, each in value.items())
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
