"""kfp-osft ask."""

import argparse

from kfp_osft.pipelines.command.options import Subcommands


def add_to(commands: Subcommands) -> None:
    """Adds the subcommand's parser."""
    parser = commands.add_parser(
        "ask",
        help="ask a model a question, or chat with it, on this computer",
        description="Asks a model a question and prints its answer while it comes; without a question, chats. The "
        "likeliest token comes next, none is drawn by chance, so the same question gets the same answer; what else the "
        "model's generation_config.json says, such as a repetition penalty, holds. No code beside a model is run.",
        usage="%(prog)s [options] MODEL [QUESTION]",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model's folder, the output folder of kfp-osft run, or an id on the Hugging Face Hub",
    )
    parser.add_argument("question", metavar="QUESTION", nargs="?", default="", help="default: chat")
    parser.add_argument("--base", default="", metavar="BASE", help="another model, which answers before: MODEL's base")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=512,
        metavar="N",
        help="maximum length of an answer in tokens (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kfp_osft.pipelines.use.chat import ask

    ask(options.model, options.question.strip(), options.base, options.max_new_tokens)
