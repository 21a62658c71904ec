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

_EPILOG = """\
A tasks.yaml; paths are beside it:

  base_model: org/model         # or a folder
  unfreeze_rank_ratio: 0.25     # of the first task; default: 0.25
  schedule: falling             # of the ratio: constant (default), falling or growing
  training:                     # parameters of all tasks, as of the pipeline
    training_num_epochs: 2
  tasks:
    - name: billing             # lower case letters, digits and -
      dataset: billing.jsonl    # as --dataset of kfp-osft run
    - name: returns
      dataset: org/returns
      validation: returns.jsonl # rows to measure it by; default: a tenth of the dataset

A task may have dataset_split and validation_split, and an unfreeze_rank_ratio
and a training of its own. falling multiplies the ratio by factor (default: 0.5)
from task to task; growing needs planned_tasks, the number of all tasks, those
to come included.
"""


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "sequence",
        help="fine-tune a model on tasks one after the other, and measure what it keeps of each",
        description="Fine-tunes a model on tasks one after the other, each from the model before it, and measures all "
        "of them after each. A sequence that was interrupted goes on with the task that is not done; a task added at "
        "the end is the only one that is trained.",
        usage="%(prog)s [options] tasks.yaml",
        epilog=_EPILOG,
    )
    parser.add_argument("tasks", type=Path, metavar="tasks.yaml", help="base model and tasks, as below")
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
