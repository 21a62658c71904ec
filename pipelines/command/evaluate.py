"""kfp-osft evaluate."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.command.options import Subcommands, add_output_dir
from kfp_osft.pipelines.command.parameter_options import value_of
from kfp_osft.shared.parameters.evaluation_parameters import EVALUATION_PARAMETERS
from kfp_osft.shared.parameters.parameter import Parameter


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "evaluate",
        help="measure what a fine-tuned model learnt and what it kept, beside its base model",
        description="Measures base and fine-tuned model side by side: loss and exact match on held-out rows, loss on "
        "general texts and on earlier tasks, where the weights changed, benchmarks. Writes a report.",
    )
    parser.add_argument(
        "base", metavar="BASE", help="model before the training: a folder, or an id on the Hugging Face Hub"
    )
    parser.add_argument("tuned", metavar="TUNED", help="model after the training: a folder or an id")
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="FILE",
        help="rows of the task that were not trained on: a file or folder (JSON Lines, JSON, Parquet, CSV, Arrow), or "
        "the validation.jsonl of a run",
    )
    add_output_dir(parser, "kfp-osft-output/evaluation")
    add_evaluation_parameters(parser)
    parser.set_defaults(run=_run)


def add_evaluation_parameters(parser: argparse._ActionsContainer, only: str = "") -> None:
    """Adds an option for each parameter of an evaluation; one that is not given is None.

    Args:
        parser: or a group of one.
        only: those whose names begin so.
    """
    for parameter in EVALUATION_PARAMETERS:
        if not parameter.name.startswith(only):
            continue
        option = f"--{parameter.name.replace('_', '-')}"
        # A boolean is a switch, as in kfp-osft run.
        kind: dict[str, Any] = (
            {"action": "store_const", "const": True} if parameter.type is bool else {"type": _typed(parameter)}
        )
        text = parameter.doc if parameter.type is bool else f"{parameter.description} Default: {parameter.default!r}."
        parser.add_argument(option, dest=parameter.name, default=None, help=text.replace("%", "%%"), **kind)


def given_evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """The parameters of the evaluation that are given on the command line."""
    given = {parameter.name: getattr(options, parameter.name, None) for parameter in EVALUATION_PARAMETERS}
    return {name: value for name, value in given.items() if value is not None}


def _typed(parameter: Parameter) -> Callable[[str], Any]:
    def typed(text: str) -> Any:
        try:
            return value_of(parameter, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from None

    return typed


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.local.evaluation import evaluate_models

    evaluate_models(options.base, options.tuned, options.dataset, given_evaluation(options), options.output_dir)
