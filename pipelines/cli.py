"""The command kfp-osft."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from kfp_osft import __version__
from kfp_osft.shared.parameters.declarations import EXTRA_PARAMETERS, TRAINING_PARAMETERS, Parameter
from kfp_osft.shared.parameters.kubernetes_syntax import is_name, is_positive_quantity
from kfp_osft.shared.reporting.errors import InputError, TrainingError

_ACCESS_MODES = ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
# kfp_osft.pipelines.osft.sub_pipeline.SECRET_KEYS, without the import.
_SECRETS = ("kubernetes", "hugging_face", "oci", "s3")
# What a run on this computer takes: of the extra parameters, those that are not about a TrainJob.
_RUN_PARAMETERS = (
    *TRAINING_PARAMETERS,
    *(parameter for parameter in EXTRA_PARAMETERS if not parameter.goes_to.startswith("trainjob.")),
)
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
        # The stage has told all lines; here they are one, of a training's last words what happened and where they are.
        lines = str(error).splitlines()
        short = f"{lines[0]} {lines[-1]}" if isinstance(error, TrainingError) and len(lines) > 3 else "; ".join(lines)
        print(f"{program}: {short}", file=sys.stderr)
        return _BAD_INPUT if isinstance(error, InputError) else _FAILED
    except ModuleNotFoundError as error:
        print(
            f"{program}: {error.name} is not installed; running on this computer needs kfp-osft[local]", file=sys.stderr
        )
        return _FAILED
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; what was complete is used again by the next run", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kfp-osft", description="Fine-tunes language models with OSFT.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{demo,run,check,compile,manifest,image,runtime}"
    )

    demo = commands.add_parser(
        "demo",
        help="fine-tune a small model on a built-in example, on this computer",
        description="Fine-tunes SmolLM2-135M-Instruct on a built-in example, on this computer.",
    )
    demo.add_argument(
        "--output-dir",
        type=Path,
        default=Path("kfp-osft-output/demo"),
        help="folder of the results (default: %(default)s)",
    )
    _add_quiet(demo)
    demo.set_defaults(run=_demo)

    run = commands.add_parser(
        "run",
        help="fine-tune a model on your data, on this computer",
        description="Fine-tunes a model on your data, on this computer.",
    )
    run.add_argument(
        "--from",
        type=Path,
        dest="run_file",
        metavar="osft_run.json",
        help="run again what made a model: osft_run.json of an exported model, or the model's folder; "
        "options beside it take the place of what it says",
    )
    run.add_argument(
        "--dataset",
        help="file or folder of rows (JSON Lines, JSON, Parquet, CSV, Arrow), a Hugging Face dataset as "
        "org/name, an s3:// or http(s):// URL",
    )
    run.add_argument(
        "--dataset-split",
        help="split of a Hugging Face dataset, or of a folder whose files are named by it (default: train)",
    )
    run.add_argument("--validation-uri", help="rows to hold out from the training, as --dataset takes it")
    run.add_argument("--validation-uri-split", help="split of --validation-uri (default: validation)")
    run.add_argument(
        "--output-dir",
        type=Path,
        default=Path("kfp-osft-output/run"),
        help="folder of the results (default: %(default)s)",
    )
    _add_quiet(run)
    for parameter in _RUN_PARAMETERS:
        _add_option(run, parameter)
    run.set_defaults(run=_run)

    check = commands.add_parser(
        "check",
        help="measure what a fine-tuned model kept of its base model",
        description="Measures what a fine-tuned model kept: the share of the trained matrices' change that lies in the "
        "directions that OSFT promises to keep, and the loss of both models on a general text.",
    )
    check.add_argument(
        "base", metavar="BASE", help="model before the training: a folder, or an id on the Hugging Face Hub"
    )
    check.add_argument("tuned", metavar="TUNED", help="model after it: a folder or an id")
    check.add_argument(
        "--unfreeze-rank-ratio",
        type=float,
        metavar="R",
        help="the training's, 0 to 1 (default: what osft_run.json in TUNED says)",
    )
    check.add_argument(
        "--dataset",
        type=Path,
        metavar="FILE",
        help="rows that were not trained on: the loss of both models on what the assistant says in the "
        "first 64 of them",
    )
    check.add_argument(
        "--matrices",
        type=int,
        default=12,
        help="trained matrices to look at, always the same ones (default: %(default)s)",
    )
    check.add_argument(
        "--max-minutes",
        type=float,
        default=10,
        help="ends in about that time, with fewer rows and matrices (default: %(default)s)",
    )
    check.add_argument(
        "--target-patterns",
        type=lambda text: [part.strip() for part in text.split(",")],
        default=[],
        help="the training's, where it had some: parts of the matrices' names, separated by commas",
    )
    check.set_defaults(run=_check)

    compile_ = commands.add_parser(
        "compile",
        help="write the YAML to upload to a cluster",
        description="Writes osft_pipeline.yaml and one YAML for each stage.",
    )
    compile_.add_argument(
        "--output-dir", type=Path, default=Path("compiled"), help="folder of the YAML files (default: %(default)s)"
    )
    compile_.add_argument(
        "--workspace-size", default="100Gi", help="size of the run's workspace volume (default: %(default)s)"
    )
    compile_.add_argument(
        "--storage-class",
        default="",
        help="storage class of that volume (default: the cluster's; KFP 2.15 and 2.16 need one)",
    )
    compile_.add_argument(
        "--access-mode",
        dest="access_modes",
        action="append",
        choices=_ACCESS_MODES,
        help="access mode of that volume, may be repeated (default: ReadWriteMany)",
    )
    compile_.add_argument("--image", default=None, help="container image of the stages")
    compile_.add_argument(
        "--package",
        default="",
        metavar="REQUIREMENT",
        help="what pip installs in the stages to bring kfp-osft, as kfp-osft==0.1.0 or a wheel's URL (default: the "
        "ConfigMap in kfp-osft.yaml, or what the image has)",
    )
    for purpose in _SECRETS:
        compile_.add_argument(
            f"--{purpose.replace('_', '-')}-secret", default=None, help=f"name of the Secret for {purpose}"
        )
    compile_.add_argument(
        "--no-pip",
        dest="pip",
        action="store_false",
        help="the stages install nothing: for clusters without a package index",
    )
    compile_.set_defaults(run=_compile)

    manifest = commands.add_parser(
        "manifest",
        help="print the YAML to apply to a project once: the stages' code, and the rights of launch_trainjob",
        description="Prints the ConfigMap with the stages' code, and the Role and RoleBinding of launch_trainjob. "
        "Apply it to each project that runs the pipelines, once a version.",
    )
    manifest.add_argument(
        "--service-account",
        default="pipeline-runner-dspa",
        help="service account of the pipeline's pods (default: %(default)s)",
    )
    manifest.add_argument("--role", default="osft-launcher", help="name of Role and RoleBinding (default: %(default)s)")
    manifest.add_argument("--no-role", dest="with_role", action="store_false", help="the ConfigMap alone")
    manifest.set_defaults(run=_manifest)

    image = commands.add_parser(
        "image",
        help="print the Containerfile of an image in which the stages install nothing",
        description="Prints the Containerfile of an image in which the stages install nothing, for clusters without a "
        "package index; compile with --image and --no-pip for it.",
    )
    image.add_argument("--from", default="", dest="base", metavar="IMAGE", help="image to build upon (default: ours)")
    image.set_defaults(run=_image)
    runtime = commands.add_parser(
        "runtime",
        help="print a training runtime that ends a training which a retry cannot mend",
        description="Prints a ClusterTrainingRuntime or TrainingRuntime, made from one that is there, for an "
        "administrator to apply: it replaces pods that are evicted or preempted, and ends at the first error that "
        "would come again.",
    )
    runtime.add_argument(
        "source",
        metavar="RUNTIME",
        help="a file with the runtime that is there, - for standard input, or its name on the kubeconfig's cluster",
    )
    runtime.add_argument("--name", default="", help="of the new runtime (default: the other's with -osft)")
    runtime.add_argument(
        "--namespace", default="", help="of a TrainingRuntime on the cluster (default: a ClusterTrainingRuntime)"
    )
    runtime.set_defaults(run=_runtime)
    return parser


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print where each stage begins and ends, warnings and the summary, and nothing else",
    )


def _add_option(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
    """--num-epochs for training_num_epochs; the full name is taken too."""
    full = f"--{parameter.name.replace('_', '-')}"
    default = parameter.pipeline_default
    parser.add_argument(
        full.replace("--training-", "--"),
        full,
        dest=parameter.name,
        default=None,
        metavar=parameter.type.__name__,
        type=_boolean if parameter.type is bool else parameter.type,
        help=f"{parameter.description} Default: {default!r}.".replace("%", "%%"),
    )


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
    return text.lower() == "true"


# The imports are here so that --help and a bad option answer at once.


def _demo(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.demo.demo import run_demo

    run_demo(options.output_dir, options.quiet)


def _check(options: argparse.Namespace) -> None:
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


def _run(options: argparse.Namespace) -> None:
    if options.dataset is None and options.run_file is None:
        raise InputError("the following arguments are required: --dataset, or --from")
    from kfp_osft.pipelines.local.repeated_run import repeated_run
    from kfp_osft.pipelines.local.run import run_locally
    from kfp_osft.pipelines.local.summary import check_local_run, show_run
    from kfp_osft.shared.training.metrics import read_table

    given: dict[str, Any] = {parameter.name: getattr(options, parameter.name) for parameter in _RUN_PARAMETERS}
    training = {name: value for name, value in given.items() if value is not None}
    base_model = training.get("training_base_model")
    if base_model and Path(base_model).expanduser().exists():
        # A link stays one: final_model means the last run's model.
        training["training_base_model"] = str(Path(base_model).expanduser().absolute())
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


def _compile(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.compiling import compile_all
    from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings
    from kfp_osft.shared.files.atomic import writable_folder
    from kfp_osft.stages.component import STAGE_IMAGE, StageSettings

    writable_folder("--output-dir", str(options.output_dir))
    if not is_positive_quantity(options.workspace_size):
        raise InputError(f"--workspace-size={options.workspace_size} is not a Kubernetes quantity above 0, as 100Gi")
    if options.package and not options.pip:
        raise InputError("--package and --no-pip exclude each other: the package would be installed with pip")
    secret_names = {purpose: name for purpose in _SECRETS if (name := getattr(options, f"{purpose}_secret"))}
    _check_names(*secret_names.values(), options.storage_class)
    settings = PipelineSettings(
        workspace_size=options.workspace_size,
        storage_class=options.storage_class,
        access_modes=tuple(options.access_modes or PipelineSettings.access_modes),
        secret_names={**PipelineSettings().secret_names, **secret_names},
        stages=StageSettings(image=options.image or STAGE_IMAGE, package=options.package, pip=options.pip),
    )
    for file in compile_all(options.output_dir, settings):
        print(file)


def _runtime(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.training_runtime import training_runtime

    print(training_runtime(options.source, options.name, options.namespace), end="")


def _manifest(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.manifest import manifest

    _check_names(options.service_account, options.role)
    print(manifest(options.service_account, options.role, options.with_role), end="")


def _image(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.image import containerfile
    from kfp_osft.stages.component import STAGE_IMAGE

    print(containerfile(options.base or STAGE_IMAGE), end="")


def _check_names(*names: str) -> None:
    for name in filter(None, names):
        if not is_name(name):
            raise InputError(f"'{name}' is not a name that Kubernetes takes for an object")


if __name__ == "__main__":
    sys.exit(main())
