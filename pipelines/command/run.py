"""kfp-osft run."""

import argparse
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.command.options import Subcommands, add_output_dir, add_parameter, add_quiet
from kfp_osft.shared.parameters.declarations import EXTRA_PARAMETERS, TRAINING_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError

# Of the extra parameters, those of the TrainJob mean nothing on this computer.
_PARAMETERS = (
    *TRAINING_PARAMETERS,
    *(parameter for parameter in EXTRA_PARAMETERS if not parameter.goes_to.startswith("trainjob.")),
)


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "run",
        help="fine-tune a model on your data, on this computer",
        description="Fine-tunes a model on your data, on this computer.",
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="run_file",
        metavar="osft_run.json",
        help="repeat the run that made a model: osft_run.json of an exported model, or the model's folder; "
        "other options override what it says",
    )
    parser.add_argument(
        "--dataset",
        help="file or folder of rows (JSON Lines, JSON, Parquet, CSV, Arrow), a Hugging Face dataset as "
        "org/name, an s3:// or http(s):// URL",
    )
    parser.add_argument(
        "--dataset-split",
        help="split of a Hugging Face dataset, or of a folder whose files are named after splits (default: train)",
    )
    parser.add_argument("--validation-uri", help="rows to hold out from the training, in any form --dataset takes")
    parser.add_argument("--validation-uri-split", help="split of --validation-uri (default: validation)")
    add_output_dir(parser, "kfp-osft-output/run")
    add_quiet(parser)
    for parameter in _PARAMETERS:
        add_parameter(parser, parameter)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if all(rows is None for rows in (options.dataset, options.run_file)):
        raise InputError("the following arguments are required: --dataset, or --from")
    from kfp_osft.pipelines.local.repeated_run import repeated_run
    from kfp_osft.pipelines.local.run import run_locally
    from kfp_osft.pipelines.local.summary import check_local_run, show_run
    from kfp_osft.shared.training.metrics import read_table

    training = _training_parameters(options)
    dataset, split = options.dataset, options.dataset_split
    held_out, held_out_split = options.validation_uri, options.validation_uri_split
    if options.run_file:
        dataset, split, training, held_out, held_out_split = repeated_run(
            options.run_file, dataset, split, training, held_out, held_out_split
        )
    run = run_locally(
        options.output_dir,
        dataset,
        split or "train",
        training,
        options.quiet,
        held_out or "",
        held_out_split or "validation",
    )
    show_run(run, read_table(run.steps), check_local_run(run))


def _training_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Those given on the command line."""
    given = {parameter.name: getattr(options, parameter.name) for parameter in _PARAMETERS}
    training = {name: value for name, value in given.items() if value is not None}
    base_model = training.get("training_base_model")
    if base_model and Path(base_model).expanduser().exists():
        # Symbolic links are kept: final_model means the last run's model.
        training["training_base_model"] = str(Path(base_model).expanduser().absolute())
    return training
