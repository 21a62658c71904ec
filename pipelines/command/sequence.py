"""kfp-osft sequence."""

import argparse
from pathlib import Path

from kfp_osft.pipelines.command.options import Subcommands, add_output_dir, add_quiet
from kfp_osft.pipelines.command.parameter_options import (
    EVALUATION,
    add_evaluation_parameters,
    given_evaluation,
    naming_options,
)


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "sequence",
        help="fine-tune a model on tasks one after the other, and measure what it keeps of each",
        description="Fine-tunes a model on tasks one after the other, each from the model before it, and measures all "
        "of them after each. A sequence that was interrupted goes on with the task that is not done; a task added at "
        "the end is the only one that is trained.",
    )
    parser.add_argument("tasks", type=Path, metavar="tasks.yaml", help="base model, tasks and their ratios")
    add_output_dir(parser, "kfp-osft-output/sequence")
    add_quiet(parser)
    add_evaluation_parameters(parser, [EVALUATION["evaluation_rows"], EVALUATION["evaluation_answer_tokens"]])
    parser.set_defaults(run=_run, typed={})


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.sequence.plan import read_plan
    from kfp_osft.pipelines.sequence.sequence import PAGE, run_sequence
    from kfp_osft.shared.reporting.log import log
    from kfp_osft.stages.evaluate_model.options import checked_options

    with naming_options(options.typed):
        evaluation = checked_options(given_evaluation(options))
    result = run_sequence(read_plan(options.tasks), options.output_dir, evaluation, options.quiet)
    log("")
    for name, value in result.metrics().items():
        log(f"{name:<40}{value:>9.4g}")
    log(f"Page     {options.output_dir / PAGE}\nModel    {result.learnt[-1].model}")
