"""kfp-osft push."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "push",
        help="push a model to S3, the Hugging Face Hub or an OCI registry",
        description="Pushes a model, whole or not at all. A push that was interrupted goes on with what is missing.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model's folder, or the output folder of kfp-osft run")
    parser.add_argument(
        "uri",
        metavar="URI",
        help="s3://bucket/prefix (credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_S3_ENDPOINT); "
        "hf://org/name (HF_TOKEN); or oci://registry/repository:tag, an image with the model below /models, as KServe "
        "serves it (OCI_PULL_SECRET_MODEL_DOWNLOAD, or the user's Docker or Podman login)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.run_folders import find_model
    from kfp_osft.shared.push.push import push_model

    print(push_model(find_model("MODEL", options.model), options.uri, "URI"))
