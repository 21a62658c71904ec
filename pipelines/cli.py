"""The command kfp-osft."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from kfp_osft.shared.errors import InputError, TrainingError
from kfp_osft.shared.parameters import TRAINING_PARAMETERS, Parameter

_BAD_INPUT = 2
_FAILED = 1
_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 for a failed training, 2 for bad options or input."""
    parser = _parser()
    options = parser.parse_args(arguments)
    program = f"{parser.prog} {options.command}"
    try:
        options.run(options)
    except (InputError, TrainingError) as error:
        # The stage has told all lines; here they are one.
        print(f"{program}: {'; '.join(str(error).splitlines())}", file=sys.stderr)
        return _BAD_INPUT if isinstance(error, InputError) else _FAILED
    except ModuleNotFoundError as error:
        print(f"{program}: {error.name} is not installed; running on this computer needs kfp-osft[local]",
              file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; what was complete is used again by the next run", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kfp-osft", description="Fine-tunes language models with OSFT.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{demo,run,compile}")

    demo = commands.add_parser("demo", help="fine-tune a small model on a built-in example, on this computer",
                               description="Fine-tunes SmolLM2-135M-Instruct on a built-in example, on this computer.")
    demo.add_argument("--output-dir", type=Path, default=Path("kfp-osft-output/demo"),
                      help="folder of the results (default: %(default)s)")
    demo.set_defaults(run=_demo)

    run = commands.add_parser("run", help="fine-tune a model on your data, on this computer",
                              description="Fine-tunes a model on your data, on this computer.")
    run.add_argument("--dataset", required=True,
                     help="file or folder of rows with messages (JSON Lines, JSON, Parquet), or a Hugging Face "
                          "dataset as org/name")
    run.add_argument("--dataset-split", default="train",
                     help="split of a Hugging Face dataset (default: %(default)s)")
    run.add_argument("--output-dir", type=Path, default=Path("kfp-osft-output/run"),
                     help="folder of the results (default: %(default)s)")
    for parameter in TRAINING_PARAMETERS:
        _add_option(run, parameter)
    run.set_defaults(run=_run)

    compile_ = commands.add_parser("compile", help="write the YAML to upload to a cluster",
                                   description="Writes osft_pipeline.yaml and one YAML for each stage.")
    compile_.add_argument("--output-dir", type=Path, default=Path("compiled"),
                          help="folder of the YAML files (default: %(default)s)")
    compile_.set_defaults(run=_compile)
    return parser


def _add_option(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
    """--num-epochs for training_num_epochs; the full name is taken too."""
    full = f"--{parameter.name.replace('_', '-')}"
    default = parameter.pipeline_default
    parser.add_argument(
        full.replace("--training-", "--"), full, dest=parameter.name, default=None, metavar=parameter.type.__name__,
        type=_boolean if parameter.type is bool else parameter.type,
        help=f"{parameter.description} Default: {default!r}.".replace("%", "%%"))


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
    return text.lower() == "true"


# The imports are here so that --help and a bad option answer at once.

def _demo(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.demo import run_demo

    run_demo(options.output_dir)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.local_run import run_locally
    from kfp_osft.pipelines.summary import show_run
    from kfp_osft.shared.training_metrics import read_table

    given: dict[str, Any] = {parameter.name: getattr(options, parameter.name) for parameter in TRAINING_PARAMETERS}
    training = {name: value for name, value in given.items() if value is not None}
    base_model = training.get("training_base_model")
    if base_model and Path(base_model).expanduser().exists():
        training["training_base_model"] = str(Path(base_model).expanduser().resolve())
    run = run_locally(options.output_dir, options.dataset, options.dataset_split, training)
    show_run(run, read_table(run.steps))


def _compile(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.compiling import compile_all

    for file in compile_all(options.output_dir):
        print(file)


if __name__ == "__main__":
    sys.exit(main())
