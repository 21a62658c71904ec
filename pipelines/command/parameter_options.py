"""Parameters of trainings and evaluations as options of the command: their names, types and groups, and how an error
names them."""

import argparse
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kfp_osft.pipelines.command.parser import SWITCH, Parser
from kfp_osft.pipelines.parameter_groups import (
    BASIC,
    IN_ORDER,
    OSFT,
    RESULTS,
    ROWS,
    TRAINING,
    group_of,
    has_effect_here,
)
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.evaluation_parameters import EVALUATION_PARAMETERS
from kfp_osft.shared.parameters.parameter import Parameter
from kfp_osft.shared.reporting.errors import InputError, TrainingError

#: Where a run's rows come from: parameters of osft_pipeline -> their options.
ROW_OPTIONS = {
    "dataset_uri": "--dataset",
    "dataset_split": "--dataset-split",
    "validation_uri": "--validation-uri",
    "validation_uri_split": "--validation-uri-split",
}
PARAMETERS = {parameter.name: parameter for parameter in ALL_PARAMETERS}
EVALUATION = {parameter.name: parameter for parameter in EVALUATION_PARAMETERS}
#: Of a run: whether it has an evaluation.
EVALUATE = Parameter(
    "evaluate",
    bool,
    False,
    "Evaluate the model at the end, as kfp-osft evaluate does, on the rows that were held out.",
    "true or false",
    "",
)
#: Whatever is an option of kfp-osft run and has a type.
DECLARED = {**PARAMETERS, EVALUATE.name: EVALUATE, **EVALUATION}

# As other trainers call them.
_ALIASES = {
    "training_num_epochs": "--epochs",
    "training_effective_batch_size": "--batch-size",
    "training_learning_rate": "--lr",
}
_TITLES = {
    BASIC: "what matters most",
    ROWS: "rows",
    TRAINING: "training",
    OSFT: "what OSFT limits",
    RESULTS: "what is saved",
}
_VALUES = {str: "TEXT", int: "N", float: "X", bool: "[true|false]"}
# Not names such as gate, which messages have as words.
_NAMES = {*PARAMETERS, *ROW_OPTIONS, *(name for name in EVALUATION if "_" in name)}
_KNOWN = re.compile(rf"\b(?:{'|'.join(sorted(_NAMES, key=len, reverse=True))})\b")


def option_of(name: str) -> str:
    """--num-epochs for training_num_epochs, --dataset for dataset_uri."""
    return ROW_OPTIONS.get(name) or f"--{name.removeprefix('training_').replace('_', '-')}"


def options_of(name: str) -> list[str]:
    """All names of a parameter's option, the one that messages use first."""
    full = f"--{name.replace('_', '-')}"
    return list(dict.fromkeys([option_of(name), *filter(None, [_ALIASES.get(name)]), full]))


#: Chosen for the run where they are not given.
CHOSEN = (
    "training_effective_batch_size",
    "training_learning_rate",
    "training_max_seq_len",
    "training_max_tokens_per_gpu",
)


def add_parameters(parser: Parser, groups: Mapping[str, argparse._ArgumentGroup]) -> None:
    """Adds an option for each parameter; those that do nothing on this computer are accepted and not shown.

    An option that is not given has the value None; the names that were typed are in the namespace's `typed`, which the
    parser's defaults must have, empty.

    Args:
        groups: groups of the help that exist already, by the parameters' groups.
    """
    groups = dict(groups)
    for parameter in IN_ORDER:
        shown, group = has_effect_here(parameter), group_of(parameter)
        if group not in _TITLES:
            group = TRAINING
        if group not in groups:
            groups[group] = parser.add_argument_group(_TITLES[group])
        _add(groups[group], parameter, options_of(parameter.name), _help(parameter) if shown else argparse.SUPPRESS)


def add_evaluation_parameters(
    parser: argparse._ActionsContainer, parameters: Iterable[Parameter] = EVALUATION_PARAMETERS
) -> None:
    """Adds an option for each of these parameters, as add_parameters does.

    Args:
        parser: or a group of one.
        parameters: EVALUATE and EVALUATION_PARAMETERS, or some of them.
    """
    for parameter in parameters:
        _add(parser, parameter, [option_of(parameter.name)], _help(parameter))


def given_evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """The parameters of an evaluation that are given on the command line."""
    given = {name: getattr(options, name, None) for name in EVALUATION}
    return {name: value for name, value in given.items() if value is not None}


def _add(parser: argparse._ActionsContainer, parameter: Parameter, options: list[str], text: str) -> None:
    parser.add_argument(
        *options,
        dest=parameter.name,
        action=_SetParameter,
        nargs="?",
        const=SWITCH if parameter.type is bool else None,
        metavar=_VALUES[parameter.type],
        help=text,
    )


def _help(parameter: Parameter) -> str:
    text = in_words_of_the_command(parameter.doc if parameter.type is bool else parameter.description, {})
    return f"{text} Default: {_default(parameter)}.".replace("%", "%%")


def _default(parameter: Parameter) -> str:
    if parameter.name == "training_base_model":
        return "SmolLM2-135M-Instruct, the demo's small model"
    if parameter.name in CHOSEN:
        return "chosen from the rows and the model"
    default = parameter.pipeline_default
    if parameter.type is float:
        return f"{default:g}"
    return "none" if default == "" else str(default).lower() if parameter.type is bool else str(default)


def value_of(parameter: Parameter, text: str) -> Any:
    """The value that a text stands for.

    Raises:
        ValueError: with what it is not.
    """
    if parameter.type is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("not true or false")
        return text.lower() == "true"
    try:
        return parameter.type(text)
    except ValueError:
        raise ValueError("not an integer" if parameter.type is int else "not a number") from None


class _SetParameter(argparse.Action):
    """Keeps the value, and under which name it was typed."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        assert option_string is not None
        if values is None:
            raise argparse.ArgumentError(None, f"{option_string} needs a value")
        try:
            value = value_of(DECLARED[self.dest], values)
        except ValueError as error:
            raise argparse.ArgumentError(None, f"{option_string} {values}: {error}") from None
        setattr(namespace, self.dest, value)
        namespace.typed = {**namespace.typed, self.dest: option_string}


def in_words_of_the_command(message: str, typed: Mapping[str, str]) -> str:
    """A message with the option that was typed, or would be, in the place of each parameter's name."""
    return _KNOWN.sub(lambda found: typed.get(found[0]) or option_of(found[0]), message)


@contextlib.contextmanager
def naming_options(typed: Mapping[str, str]) -> Iterator[None]:
    """Errors name options where they name parameters; `typed` may still grow inside."""
    try:
        yield
    except (InputError, TrainingError) as error:
        raise type(error)(in_words_of_the_command(str(error), typed)) from error
