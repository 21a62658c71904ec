"""kfp-osft run."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.command.config_file import write_config
from kfp_osft.pipelines.command.options import Subcommands, add_quiet
from kfp_osft.pipelines.command.parameter_options import (
    EVALUATE,
    EVALUATION,
    add_evaluation_parameters,
    add_parameters,
    naming_options,
)
from kfp_osft.pipelines.command.run_settings import DEFAULT_OUTPUT_DIR, RunSettings, run_settings
from kfp_osft.pipelines.demo.example_model import example_model
from kfp_osft.pipelines.demo.wheels import cache_dir
from kfp_osft.pipelines.local.reachable import check_reachable
from kfp_osft.pipelines.parameter_groups import BASIC, ROWS
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.reporting.log import log

_EPILOG = (
    "An option's name as a parameter of the pipeline works too (--training-num-epochs), and so do those that mean "
    "something only on a cluster. A config file has the same names: num_epochs: 2."
)


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "run",
        help="fine-tune a model on your data, on this computer",
        description="Fine-tunes a model on your data, on this computer, as in: kfp-osft run rows.jsonl --base-model "
        "org/model. What is not given is chosen from the rows, the model and this computer, and said.",
        usage="%(prog)s [options] ROWS | config.yaml",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="ROWS | config.yaml",
        help="what --dataset takes, or a config file (an option beside it wins)",
    )
    basic = parser.add_argument_group("what matters most")
    basic.add_argument(
        "--dataset",
        dest="dataset_uri",
        metavar="ROWS",
        help="file or folder of rows (JSON Lines, JSON, Parquet, CSV, Arrow), a Hugging Face dataset as "
        "org/name, an s3:// or http(s):// URL",
    )
    basic.add_argument(
        "--output-dir", type=Path, metavar="FOLDER", help=f"folder of the results (default: {DEFAULT_OUTPUT_DIR})"
    )
    before = parser.add_argument_group("before the training")
    before.add_argument("--dry-run", action="store_true", help="check everything, show what the run would do, and end")
    before.add_argument(
        "--write-config", type=Path, metavar="FILE", help="write the settings of this run as a config file, and end"
    )
    before.add_argument(
        "--from",
        type=Path,
        dest="run_file",
        metavar="RUN",
        help="repeat the run that made a model: osft_run.json of an exported model, the model's folder, or the output "
        "folder; other options win over what it says",
    )
    add_quiet(before)
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--dataset-split",
        metavar="NAME",
        help="split of a Hugging Face dataset, or of a folder whose files are named after splits (default: train)",
    )
    rows.add_argument(
        "--validation-uri", metavar="ROWS", help="rows to hold out from the training, in any form --dataset takes"
    )
    rows.add_argument("--validation-uri-split", metavar="NAME", help="split of --validation-uri (default: validation)")
    add_parameters(parser, {BASIC: basic, ROWS: rows})
    evaluation = parser.add_argument_group("evaluation")
    add_evaluation_parameters(evaluation, [EVALUATE, *EVALUATION.values()])
    parser.set_defaults(run=_run, typed={})


def _run(options: argparse.Namespace) -> None:
    typed: dict[str, str] = dict(options.typed)
    with naming_options(typed):
        settings = run_settings(options)
        typed |= settings.typed
        _run_with(settings, options)


def _run_with(settings: RunSettings, options: argparse.Namespace) -> None:
    check_parameters(settings.training)
    if settings.evaluation is not None:
        from kfp_osft.pipelines.local.evaluation import check_evaluation

        base_model = str(settings.training.get("training_base_model", "of the example"))
        check_evaluation(settings.evaluation, settings.holds_out_rows, base_model)
    settings.tell_without_effect()
    is_new = options.run_file is None
    example = None
    if is_new:
        # Before KFP and the libraries are imported, which takes seconds.
        check_reachable(settings.rows, settings.training)
        if "training_base_model" not in settings.training:
            example = example_model(cache_dir())
    from kfp_osft.pipelines.local.before import dry_run, plan_run

    plan = plan_run(settings.output_dir, settings.rows, settings.training, example, is_new, options.quiet)
    if options.write_config:
        write_config(options.write_config, settings.all(plan.training))
        log(f"Settings written to {options.write_config}; train with: kfp-osft run {options.write_config}")
    elif options.dry_run:
        dry_run(settings.output_dir, plan)
    else:
        _train(settings, plan.training, options.quiet)


def _train(settings: RunSettings, training: Mapping[str, Any], quiet: bool) -> None:
    from kfp_osft.pipelines.local.run import run_locally
    from kfp_osft.pipelines.local.summary import check_local_run, show_run
    from kfp_osft.shared.training.metrics import read_table

    run = run_locally(
        settings.output_dir,
        settings.rows["dataset_uri"],
        settings.rows["dataset_split"],
        training,
        quiet,
        settings.rows["validation_uri"],
        settings.rows["validation_uri_split"],
        settings.evaluation,
    )
    show_run(run, read_table(run.steps), check_local_run(run) if settings.evaluation is None else None)
