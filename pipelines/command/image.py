"""kfp-osft image."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "image",
        help="print the Containerfile of an image in which the stages install nothing",
        description="Prints the Containerfile of an image in which the stages install nothing, for clusters without a "
        "package index; compile with --image and --no-pip to use it.",
    )
    parser.add_argument(
        "--from", default="", dest="base", metavar="IMAGE", help="base image (default: the stages' default image)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.image import containerfile
    from kfp_osft.stages.component import STAGE_IMAGE

    print(containerfile(options.base or STAGE_IMAGE), end="")
