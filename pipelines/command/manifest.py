"""kfp-osft manifest."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands, check_object_names
from kfp_osft.pipelines.osft.rights import ROLE, SERVICE_ACCOUNT
from kfp_osft.shared.reporting.errors import InputError


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "manifest",
        help="print the YAML to apply to a project once: the stages' code, and the rights of launch_trainjob",
        description="Prints the ConfigMap with the stages' code, and the Role and RoleBinding of launch_trainjob; with "
        "--evaluate, the ConfigMap with the code of the optional stage evaluate_model. Apply it once per version "
        "to each project that runs the pipelines.",
    )
    parser.add_argument(
        "--service-account",
        default=SERVICE_ACCOUNT,
        help="service account of the pipeline's pods (default: %(default)s)",
    )
    parser.add_argument("--role", default=ROLE, help="name of the Role and RoleBinding (default: %(default)s)")
    parser.add_argument("--no-role", dest="with_role", action="store_false", help="print only the ConfigMap")
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="print the ConfigMap with the code of evaluate_model instead, which needs no Role",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.manifest import evaluation_manifest, manifest

    if options.evaluate:
        if (options.service_account, options.role, options.with_role) != (SERVICE_ACCOUNT, ROLE, True):
            raise InputError(
                "--evaluate prints no Role; --service-account, --role and --no-role do not apply to it, omit them"
            )
        print(evaluation_manifest(), end="")
        return
    check_object_names(options.service_account, options.role)
    print(manifest(options.service_account, options.role, options.with_role), end="")
