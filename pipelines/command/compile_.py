"""kfp-osft compile."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands, add_output_dir, check_names
from kfp_osft.shared.parameters.kubernetes_syntax import is_positive_quantity
from kfp_osft.shared.reporting.errors import InputError

#: The keys of kfp_osft.pipelines.osft.sub_pipeline.SECRET_KEYS, which imports KFP.
SECRET_PURPOSES = ("kubernetes", "hugging_face", "oci", "s3")
_ACCESS_MODES = ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "compile",
        help="write the YAML to upload to a cluster",
        description="Writes osft_pipeline.yaml and one YAML for each stage.",
    )
    add_output_dir(parser, "compiled", "YAML files")
    parser.add_argument(
        "--workspace-size", default="100Gi", help="size of the run's workspace volume (default: %(default)s)"
    )
    parser.add_argument(
        "--storage-class",
        default="",
        help="storage class of that volume (default: the cluster's; KFP 2.15 and 2.16 need one)",
    )
    parser.add_argument(
        "--access-mode",
        dest="access_modes",
        action="append",
        choices=_ACCESS_MODES,
        help="access mode of that volume, may be repeated (default: ReadWriteMany)",
    )
    parser.add_argument("--image", default=None, help="container image of the stages")
    parser.add_argument(
        "--package",
        default="",
        metavar="REQUIREMENT",
        help="requirement that pip installs in the stages to bring kfp-osft: kfp-osft==0.1.0 or a wheel's URL "
        "(default: none, the code comes from the ConfigMap in kfp-osft.yaml or from the image)",
    )
    for purpose in SECRET_PURPOSES:
        parser.add_argument(
            f"--{purpose.replace('_', '-')}-secret", default=None, help=f"name of the Secret for {purpose}"
        )
    parser.add_argument(
        "--no-pip",
        dest="pip",
        action="store_false",
        help="the stages install nothing: for clusters without a package index",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.compiling import compile_all
    from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings
    from kfp_osft.shared.files.atomic import writable_folder
    from kfp_osft.stages.component import STAGE_IMAGE, StageSettings

    writable_folder("--output-dir", str(options.output_dir))
    if not is_positive_quantity(options.workspace_size):
        raise InputError(
            f"--workspace-size={options.workspace_size} is not a Kubernetes quantity above 0, such as 100Gi"
        )
    if options.package and not options.pip:
        raise InputError("--package and --no-pip exclude each other: the package would be installed with pip")
    secret_names = {purpose: name for purpose in SECRET_PURPOSES if (name := getattr(options, f"{purpose}_secret"))}
    check_names(*secret_names.values(), options.storage_class)
    settings = PipelineSettings(
        workspace_size=options.workspace_size,
        storage_class=options.storage_class,
        access_modes=tuple(options.access_modes or PipelineSettings.access_modes),
        secret_names={**PipelineSettings().secret_names, **secret_names},
        stages=StageSettings(image=options.image or STAGE_IMAGE, package=options.package, pip=options.pip),
    )
    for file in compile_all(options.output_dir, settings):
        print(file)
