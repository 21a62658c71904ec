"""What the subcommands' parsers share."""

import argparse
from pathlib import Path
from typing import NoReturn, TypeAlias

from kfp_osft.shared.parameters.declarations import Parameter
from kfp_osft.shared.parameters.kubernetes_syntax import is_name
from kfp_osft.shared.reporting.errors import InputError

#: Exit code for bad options and bad input.
BAD_INPUT = 2

#: What add_subparsers returns; argparse has no public name for it.
Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")


def add_output_dir(parser: argparse.ArgumentParser, default: str, what: str = "results") -> None:
    """Adds --output-dir, a Path."""
    parser.add_argument(
        "--output-dir", type=Path, default=Path(default), help=f"folder of the {what} (default: %(default)s)"
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Adds --quiet."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print only when each stage begins and ends, warnings and the summary",
    )


def add_parameter(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
    """Adds --num-epochs for training_num_epochs; the full name works too. Not given, the option is None."""
    full = f"--{parameter.name.replace('_', '-')}"
    default = parameter.pipeline_default
    parser.add_argument(
        full.replace("--training-", "--"),
        full,
        dest=parameter.name,
        default=None,
        metavar=parameter.type.__name__,
        type=_boolean if parameter.type is bool else parameter.type,
        help=f"{parameter.description} Default: {default!r}.".replace("%", "%%"),
    )


def check_names(*names: str) -> None:
    """Raises InputError for a name that Kubernetes would not accept for an object; an empty one is left to defaults."""
    for name in filter(None, names):
        if not is_name(name):
            raise InputError(f"'{name}' is not a valid name of a Kubernetes object")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
    return text.lower() == "true"
