"""Entry point of the command kfp-osft; its subcommands are in command/."""

import os
import sys
import traceback
from collections.abc import Sequence

from kfp_osft import __version__
from kfp_osft.pipelines.command import (
    ask,
    check,
    compare,
    compile_,
    demo,
    evaluate,
    image,
    manifest,
    push,
    run,
    runtime,
    sequence,
)
from kfp_osft.pipelines.command.parser import BAD_INPUT, Parser
from kfp_osft.shared.network.certificates import trust_private_authorities
from kfp_osft.shared.reporting.errors import InputError, TrainingError, system_problem
from kfp_osft.shared.reporting.redaction import guarded_output

_SUBCOMMANDS = (demo, run, evaluate, sequence, check, compare, ask, push, compile_, manifest, image, runtime)
# Those that run the stages.
_RESUMABLE = ("demo", "run", "sequence")
_DESCRIPTION = (
    "Fine-tunes language models with OSFT (Orthogonal Subspace Fine-Tuning), which changes a model's weights only in "
    "the directions that matter least to what it knows."
)
_EPILOG = """\
The commands from demo to push work on this computer; compile, manifest, image
and runtime make what a cluster needs.

  kfp-osft demo                           a first try, in about five minutes
  kfp-osft run rows.jsonl --dry-run       what a training on your rows would be
  kfp-osft run --help                     a command's options
"""
_FAILED = 1
_INTERRUPTED = 130
# What a shell gives for SIGPIPE.
_BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code: 0, 1 for a failed training, 2 for bad options or input."""
    with guarded_output():
        code = _run(arguments)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            return _nobody_reads()
        return code


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    for argument in arguments:
        _check_encoding(parser, argument)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error("no command is given; kfp-osft --help shows them")
    program = f"{parser.prog} {options.command}"
    try:
        trust_private_authorities()
        options.run(options)
    except (InputError, TrainingError) as error:
        print(f"{program}: {_in_one_line(error)}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, InputError) else _FAILED
    except ModuleNotFoundError as error:
        print(
            f"{program}: {error.name} is not installed; running on this computer needs kfp-osft[local]", file=sys.stderr
        )
        return _FAILED
    except KeyboardInterrupt:
        reused = "; the next run reuses the stages that completed" if options.command in _RESUMABLE else ""
        print(f"\n{program}: interrupted{reused}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        return _nobody_reads()
    except Exception as error:
        if problem := system_problem(error):
            print(f"{program}: {problem}", file=sys.stderr)
        else:
            # Here, where what is secret in it does not show.
            traceback.print_exc()
        return _FAILED
    return 0


def _check_encoding(parser: Parser, argument: str) -> None:
    """Pipelines' parameters are UTF-8; other bytes come as halves of UTF-16's pairs (PEP 383)."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        why = "" if encoding == "utf-8" else f" in this locale, whose encoding is {encoding}; set LC_ALL=C.UTF-8"
        parser.error(f"the argument {argument!r} is not UTF-8{why}")


def _nobody_reads() -> int:
    """Whoever read the output has ended (`| head`): nothing more to say, not even at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE


def _parser() -> Parser:
    parser = Parser(prog="kfp-osft", description=_DESCRIPTION, usage="%(prog)s COMMAND [options]", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        dest="command",
        title="commands",
        metavar="COMMAND",
        prog=parser.prog,
    )
    for subcommand in _SUBCOMMANDS:
        subcommand.add_to(commands)
    return parser


def _in_one_line(error: InputError | TrainingError) -> str:
    """The stage has already printed the whole message. Of a training's last lines of output, only the first sentence
    and where to find the rest are repeated."""
    lines = str(error).splitlines()
    if isinstance(error, TrainingError) and len(lines) > 3:
        return f"{lines[0]} {lines[-1]}"
    return "; ".join(lines)


if __name__ == "__main__":
    sys.exit(main())
