"""kfp-osft check."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands, add_two_models


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "check",
        help="measure where the weights changed: the weights' part of evaluate, without loading the models",
        description="Measures the share of the trained matrices' change that lies in the directions that OSFT promises "
        "to keep. It reads the matrices one at a time; kfp-osft evaluate also measures what the models answer.",
        usage="%(prog)s [options] BASE TUNED",
    )
    add_two_models(parser)
    parser.add_argument(
        "--unfreeze-rank-ratio",
        type=float,
        metavar="R",
        help="the ratio of the training, 0 to 1 (default: what osft_run.json in TUNED says)",
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
        help="approximate time limit; fewer matrices are measured to meet it (default: %(default)s)",
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
        target_patterns=options.target_patterns,
    )
