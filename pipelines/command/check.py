"""kfp-osft check."""

import argparse
from pathlib import Path

from kfp_osft.pipelines.command.options import Subcommands


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "check",
        help="measure what a fine-tuned model kept of its base model",
        description="Measures what a fine-tuned model kept: the share of the trained matrices' change that lies in the "
        "directions that OSFT promises to keep, and the loss of both models on a general text.",
    )
    parser.add_argument(
        "base", metavar="BASE", help="model before the training: a folder, or an id on the Hugging Face Hub"
    )
    parser.add_argument("tuned", metavar="TUNED", help="model after the training: a folder or an id")
    parser.add_argument(
        "--unfreeze-rank-ratio",
        type=float,
        metavar="R",
        help="the ratio of the training, 0 to 1 (default: what osft_run.json in TUNED says)",
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="FILE",
        help="rows that were not trained on: reports the loss of both models on the assistant's turns of the first 64",
    )
    parser.add_argument(
        "--matrices",
        type=int,
        default=12,
        help="number of trained matrices to measure, always the same ones (default: %(default)s)",
    )
    parser.add_argument(
        "--max-minutes",
        type=float,
        default=10,
        help="approximate time limit; fewer rows and matrices are measured to meet it (default: %(default)s)",
    )
    parser.add_argument(
        "--target-patterns",
        type=lambda text: [part.strip() for part in text.split(",")],
        default=[],
        help="training_target_patterns of the training, if set: parts of the matrices' names, separated by commas",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.local.check import run_check

    run_check(
        options.base,
        options.tuned,
        options.unfreeze_rank_ratio,
        matrices=options.matrices,
        max_minutes=options.max_minutes,
        dataset=options.dataset,
        target_patterns=options.target_patterns,
    )
