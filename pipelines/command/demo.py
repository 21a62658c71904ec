"""kfp-osft demo."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands, add_output_dir, add_quiet


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "demo",
        help="fine-tune a small model on a built-in example, on this computer",
        description="Fine-tunes SmolLM2-135M-Instruct on a built-in example, on this computer.",
    )
    add_output_dir(parser, "kfp-osft-output/demo")
    add_quiet(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.demo.demo import run_demo

    run_demo(options.output_dir, options.quiet)
