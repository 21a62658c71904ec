"""kfp-osft manifest."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands, check_names


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "manifest",
        help="print the YAML to apply to a project once: the stages' code, and the rights of launch_trainjob",
        description="Prints the ConfigMap with the stages' code, and the Role and RoleBinding of launch_trainjob. "
        "Apply it once per version to each project that runs the pipelines.",
    )
    parser.add_argument(
        "--service-account",
        default="pipeline-runner-dspa",
        help="service account of the pipeline's pods (default: %(default)s)",
    )
    parser.add_argument(
        "--role", default="osft-launcher", help="name of the Role and RoleBinding (default: %(default)s)"
    )
    parser.add_argument("--no-role", dest="with_role", action="store_false", help="print only the ConfigMap")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.manifest import manifest

    check_names(options.service_account, options.role)
    print(manifest(options.service_account, options.role, options.with_role), end="")
