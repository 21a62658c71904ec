"""Checks given values against the declared training parameters, and sorts them by where they go."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.parameter import UNSET_INT, Parameter
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.plain_text import plain_text

# Of what torch, and the API servers behind a pipeline, take for an integer.
_BITS = 63
# No process takes a null character in its arguments or environment, no protobuf half of one of UTF-16's pairs.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_LONGEST_SHOWN = 500
_BY_NAME = {parameter.name: parameter for parameter in ALL_PARAMETERS}


@dataclass(frozen=True)
class CheckedParameters:
    """Checked and typed parameters, by the place they go to.

    Attributes:
        osft: keyword arguments of training_hub.osft; one that is not here is not passed.
        trainjob: what the TrainJob is made of, and how long it may take.
        data: what preprocess does with the rows.
        env: environment of the training.
        warnings: sentences about values that will not run as given.
    """

    osft: dict[str, Any]
    trainjob: dict[str, Any]
    data: dict[str, Any]
    env: dict[str, str]
    warnings: tuple[str, ...]


def check_parameters(given: Mapping[str, Any]) -> CheckedParameters:
    """Checks all parameters at once and sorts them by where they go.

    Args:
        given: values by name. One that is missing takes its default. None, for those whose default is None, means
            not passed.

    Raises:
        InputError: unknown names, wrong types, values that are not allowed; all of them in one message, a line each.
    """
    problems = [f"{name} is not a training parameter" for name in given if name not in _BY_NAME]
    places: dict[str, dict[str, Any]] = {"osft": {}, "trainjob": {}, "data": {}}
    env: dict[str, str] = {}
    values: dict[str, Any] = {}
    for parameter in ALL_PARAMETERS:
        try:
            value = checked_value(parameter, given.get(parameter.name, parameter.default))
            if value is None and parameter.always_passed:
                value = parameter.when_left_out
            if value is None:
                continue
            values[parameter.name] = value
            value = parameter.read(parameter.name, value)
        except InputError as error:
            problems.append(str(error))
            continue
        if parameter.goes_to == "env":
            env = value
        elif parameter.goes_to and value is not None:
            place, _, key = parameter.goes_to.partition(".")
            places[place][key] = value
    if problems:
        raise InputError("\n".join(problems))
    return CheckedParameters(**places, env=env, warnings=_warnings(values))


def checked_value(parameter: Parameter, value: Any) -> Any:
    """Gives the value in the parameter's type, or None where it is not passed.

    An integer is taken for a float and a whole float for an integer (KFP's numbers are doubles); a bool is never
    taken for a number.

    Raises:
        InputError: naming the parameter, the value and what is allowed.
    """
    if value is None and parameter.optional:
        return None
    typed = value
    if parameter.type is float and type(value) is int:
        typed = float(value)
    elif parameter.type is int and type(value) is float and value.is_integer():
        typed = int(value)
    if type(typed) is not parameter.type:
        raise InputError(
            f"{parameter.name}={value!r} is not of type {parameter.type.__name__}; allowed: {parameter.allowed}"
        )
    if isinstance(typed, int) and typed.bit_length() > _BITS:
        raise InputError(f"{parameter.name} has more than {_BITS} bits; allowed: {parameter.allowed}")
    if isinstance(typed, str) and _UNUSABLE.search(typed):
        raise InputError(
            f"{parameter.name}={plain_text(typed[:_LONGEST_SHOWN])} holds a null character, or what is not UTF-8"
        )
    # How pipelines, forms and components say: not given.
    if parameter.optional and (typed == "" or typed == UNSET_INT == parameter.component_default):
        return None
    if not parameter.is_allowed(typed):
        shown = repr(value)
        shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]} ..."
        raise InputError(f"{parameter.name}={shown} is not allowed; allowed: {parameter.allowed}")
    return typed


def _warnings(values: Mapping[str, Any]) -> tuple[str, ...]:
    warnings = []
    if values["training_osft_memory_efficient_init"] is False:
        warnings.append(
            "training_osft_memory_efficient_init=False has no effect: mini-trainer always initializes "
            "memory-efficiently"
        )
    strategy = values.get("training_fsdp_sharding_strategy", "FULL_SHARD")
    if strategy != "FULL_SHARD":
        warnings.append(
            f"training_fsdp_sharding_strategy={strategy} has no effect: mini-trainer always shards fully (FULL_SHARD)"
        )
    if values.get("training_save_final_checkpoint") is False and not (
        values.get("training_checkpoint_at_epoch") or values.get("training_save_best")
    ):
        warnings.append(
            "training_save_final_checkpoint=False without training_checkpoint_at_epoch: the training "
            "saves no checkpoint, so there will be no model to export"
        )
    return tuple(warnings)
