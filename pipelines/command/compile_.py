"""kfp-osft compile."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.command.options import Subcommands, add_output_dir, check_object_names
from kfp_osft.pipelines.command.parameter_options import EVALUATION, PARAMETERS, options_of, value_of
from kfp_osft.pipelines.did_you_mean import did_you_mean
from kfp_osft.pipelines.osft.form import OWN_PARAMETERS
from kfp_osft.pipelines.osft.secrets import SECRET_KEYS, SECRET_NAMES
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.parameters.kubernetes_syntax import is_positive_quantity
from kfp_osft.shared.reporting.errors import InputError

#: kfp_osft.stages.component.PULL_POLICIES, which imports KFP.
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_ACCESS_MODES = ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "compile",
        help="write the YAML to upload to a cluster",
        description="Writes osft_pipeline.yaml and one YAML for each stage, to upload, and kfp-osft.yaml with the "
        "stages' code, to apply to the project; with --evaluate or --sequence, kfp-osft-evaluate.yaml is to be applied "
        "too.",
        usage="%(prog)s [options]",
    )
    add_output_dir(parser, "compiled", "YAML files")
    pipeline = parser.add_argument_group("the pipeline")
    pipeline.add_argument(
        "--name",
        default=None,
        help="name of the pipeline, after which its runs are named (default: osft-pipeline); a sequence gets it with "
        "-sequence behind it",
    )
    pipeline.add_argument(
        "--set",
        dest="defaults",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="default of a parameter in the form, may be repeated: base_model=org/model, check_matrices=8, with "
        "--evaluate gate=true; of a sequence, what tasks.yaml does not say",
    )
    pipeline.add_argument(
        "--evaluate",
        action="store_true",
        help="add evaluate_model, which measures the exported model beside its base model, to osft_pipeline",
    )
    pipeline.add_argument(
        "--sequence",
        type=Path,
        metavar="tasks.yaml",
        help="write osft_sequence.yaml too: the tasks of this file one after the other, each evaluated (kfp-osft "
        "sequence --help shows such a file)",
    )
    workspace = parser.add_argument_group("the run's workspace volume")
    workspace.add_argument("--workspace-size", default="100Gi", metavar="QUANTITY", help="size (default: %(default)s)")
    workspace.add_argument(
        "--storage-class",
        default="",
        metavar="NAME",
        help="storage class (default: the cluster's; KFP 2.15 and 2.16 need one)",
    )
    workspace.add_argument(
        "--access-mode",
        dest="access_modes",
        action="append",
        choices=_ACCESS_MODES,
        help="access mode, may be repeated (default: ReadWriteMany)",
    )
    stages = parser.add_argument_group("image and code of the stages")
    stages.add_argument("--image", default=None, help="container image, with a tag or a digest (repository@sha256:...)")
    stages.add_argument(
        "--pull-policy",
        default="",
        choices=_PULL_POLICIES,
        help="imagePullPolicy (default: Kubernetes' own, Always for :latest, else IfNotPresent)",
    )
    stages.add_argument(
        "--package",
        default="",
        metavar="REQUIREMENT",
        help="requirement that pip installs in the stages to bring kfp-osft: kfp-osft==0.1.0 or a wheel's URL "
        "(default: none, the code comes from the ConfigMaps in kfp-osft.yaml and kfp-osft-evaluate.yaml, or from the "
        "image)",
    )
    stages.add_argument(
        "--no-pip",
        dest="pip",
        action="store_false",
        help="the stages install nothing: for clusters without a package index",
    )
    secrets = parser.add_argument_group("Secrets of the project, all of them optional")
    for purpose, keys in SECRET_KEYS.items():
        secrets.add_argument(
            f"--{purpose.replace('_', '-')}-secret",
            default=None,
            metavar="NAME",
            help=f"Secret with {', '.join(keys)} (default: {SECRET_NAMES[purpose]})",
        )
    pod = parser.add_argument_group("the pod of evaluate_model, with --evaluate or --sequence")
    pod.add_argument("--evaluation-cpu", default=None, metavar="QUANTITY", help="CPU cores (default: 4)")
    pod.add_argument("--evaluation-memory", default=None, metavar="QUANTITY", help="memory (default: 24Gi)")
    pod.add_argument("--evaluation-gpus", default=None, type=int, metavar="N", help="NVIDIA GPUs (default: 0)")
    pod.add_argument("--evaluation-image", default=None, metavar="IMAGE", help="its container image; needed with a GPU")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.sequence.plan import read_plan

    defaults = form_defaults(options.defaults, options.evaluate or options.sequence is not None)
    training = {name: value for name, value in defaults.items() if name in PARAMETERS}
    plan = read_plan(options.sequence, on_this_computer=False, defaults=training) if options.sequence else None
    from kfp_osft.pipelines.osft.compiling import compile_all, compile_pipeline
    from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings
    from kfp_osft.pipelines.osft.wiring import EvaluationPod
    from kfp_osft.pipelines.sequence.pipeline import build_sequence_pipeline
    from kfp_osft.shared.files.atomic import writable_folder
    from kfp_osft.stages.component import STAGE_IMAGE, StageSettings

    writable_folder("--output-dir", str(options.output_dir))
    if not is_positive_quantity(options.workspace_size):
        raise InputError(
            f"--workspace-size={options.workspace_size} is not a Kubernetes quantity above 0, such as 100Gi"
        )
    if options.package and not options.pip:
        raise InputError("--package and --no-pip exclude each other: the package would be installed with pip")
    secret_names = {purpose: name for purpose in SECRET_KEYS if (name := getattr(options, f"{purpose}_secret"))}
    check_object_names(*secret_names.values(), options.storage_class)
    evaluation = _evaluation_pod(options)
    settings = PipelineSettings(
        workspace_size=options.workspace_size,
        storage_class=options.storage_class,
        access_modes=tuple(options.access_modes or PipelineSettings.access_modes),
        secret_names=secret_names,
        stages=StageSettings(
            image=options.image or STAGE_IMAGE,
            package=options.package,
            pip=options.pip,
            pull_policy=options.pull_policy,
        ),
        name=options.name or PipelineSettings.name,
        defaults=defaults,
        evaluation=EvaluationPod(**evaluation) if options.evaluate else None,
    )
    sequence = None
    if plan is not None:
        sequence = build_sequence_pipeline(plan, replace(settings, evaluation=EvaluationPod(**evaluation)), {})
    for file in compile_all(options.output_dir, settings):
        print(file)
    if sequence is not None:
        print(compile_pipeline(sequence, options.output_dir / "osft_sequence.yaml"))


def form_defaults(given: Sequence[str], evaluates: bool) -> dict[str, Any]:
    """The values of --set, by the names of osft_pipeline's parameters and in their types.

    Args:
        given: NAME=VALUE; a training parameter also by the names of its option of kfp-osft run.
        evaluates: whether there is an evaluation, whose parameters may be set too.

    Raises:
        InputError: an unknown name, a value of another type, a name twice.
    """
    names = {**dict.fromkeys(OWN_PARAMETERS), **PARAMETERS, **EVALUATION}
    short = {option[2:].replace("-", "_"): name for name in PARAMETERS for option in options_of(name)}
    found: dict[str, Any] = {}
    for each in given:
        key, equals, text = each.partition("=")
        plain = key.replace("-", "_")
        name = plain if plain in names else short.get(plain, "")
        if not equals or not name:
            hint = did_you_mean(plain, [*names, *short]) if equals else "; allowed: NAME=VALUE"
            raise InputError(f"--set {each}: {'no parameter ' + key if equals else 'has no ='}{hint}")
        if name in found:
            raise InputError(f"--set {each}: {name} is set twice")
        if name in EVALUATION and not evaluates:
            raise InputError(f"--set {each}: needs --evaluate or --sequence")
        parameter = names[name]
        try:
            found[name] = value_of(parameter, text) if parameter else OWN_PARAMETERS[name](text)
        except ValueError as error:
            raise InputError(f"--set {each}: {error if parameter else 'not an integer'}") from None
    check_parameters({name: value for name, value in found.items() if name in PARAMETERS})
    return found


def _evaluation_pod(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of EvaluationPod that are given."""
    given = {name: getattr(options, f"evaluation_{name}") for name in ("cpu", "memory", "gpus", "image")}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if not options.evaluate and not options.sequence:
            raise InputError(f"--evaluation-{name} needs --evaluate or --sequence")
        if name in ("cpu", "memory") and not is_positive_quantity(value):
            raise InputError(f"--evaluation-{name}={value} is not a Kubernetes quantity above 0, such as 4 or 24Gi")
        if name == "gpus" and value < 0:
            raise InputError(f"--evaluation-gpus={value} is not allowed; allowed: an integer of at least 0")
        if name == "image":
            from kfp_osft.stages.component import check_image

            check_image(value)
    if given.get("gpus") and not given.get("image"):
        raise InputError("--evaluation-gpus needs --evaluation-image: the stages' own image has a torch for CPUs")
    return given
