"""Options that several subcommands have."""

import argparse
from pathlib import Path
from typing import TypeAlias

from kfp_osft.pipelines.command.parser import Parser
from kfp_osft.shared.parameters.kubernetes_syntax import is_name
from kfp_osft.shared.reporting.errors import InputError

#: What add_subparsers returns; argparse has no public name for it.
Subcommands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_output_dir(parser: argparse._ActionsContainer, default: str, what: str = "results") -> None:
    """Adds --output-dir, a Path."""
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(default),
        metavar="FOLDER",
        help=f"folder of the {what} (default: {default})",
    )


def add_two_models(parser: argparse._ActionsContainer) -> None:
    """Adds BASE and TUNED, texts."""
    kinds = "a model's folder, the output folder of kfp-osft run, or an id on the Hugging Face Hub"
    parser.add_argument("base", metavar="BASE", help=f"model before the training: {kinds}")
    parser.add_argument("tuned", metavar="TUNED", help="model after the training, as BASE")


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """Adds --quiet."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print only when each stage begins and ends, warnings and the summary",
    )


def check_object_names(*names: str) -> None:
    """Raises InputError for a name that Kubernetes would not accept for an object; an empty one is left to defaults."""
    for name in filter(None, names):
        if not is_name(name):
            raise InputError(f"'{name}' is not a valid name of a Kubernetes object")
