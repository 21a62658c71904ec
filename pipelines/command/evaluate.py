"""kfp-osft evaluate."""

import argparse
from pathlib import Path

from kfp_osft.pipelines.command.options import Subcommands, add_output_dir, add_two_models
from kfp_osft.pipelines.command.parameter_options import add_evaluation_parameters, given_evaluation, naming_options


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "evaluate",
        help="measure what a fine-tuned model learnt and what it kept, beside its base model",
        description="Measures base and fine-tuned model side by side: loss and exact match on held-out rows, loss on "
        "general texts and on earlier tasks, where the weights changed, benchmarks. Writes a report.",
        usage="%(prog)s [options] BASE TUNED",
    )
    add_two_models(parser)
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="FILE",
        help="rows of the task that were not trained on: a file or folder (JSON Lines, JSON, Parquet, CSV, Arrow), or "
        "the validation.jsonl of a run",
    )
    add_output_dir(parser, "kfp-osft-output/evaluation")
    add_evaluation_parameters(parser)
    parser.set_defaults(run=_run, typed={})


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.local.evaluation import evaluate_models

    with naming_options(options.typed):
        evaluate_models(options.base, options.tuned, options.dataset, given_evaluation(options), options.output_dir)
