"""kfp-osft runtime."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "runtime",
        help="print a training runtime that stops at errors which a retry would only repeat",
        description="Prints a ClusterTrainingRuntime or TrainingRuntime, made from an existing one, for an "
        "administrator to apply: it replaces pods that are evicted or preempted, and fails at the first error that a "
        "retry would only repeat.",
    )
    parser.add_argument(
        "source",
        metavar="RUNTIME",
        help="a file with the existing runtime, - for standard input, or its name on the kubeconfig's cluster",
    )
    parser.add_argument("--name", default="", help="name of the new runtime (default: the existing name with -osft)")
    parser.add_argument(
        "--namespace",
        default="",
        help="namespace of a TrainingRuntime on the cluster (default: RUNTIME is a ClusterTrainingRuntime)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.osft.training_runtime import training_runtime

    print(training_runtime(options.source, options.name, options.namespace), end="")
