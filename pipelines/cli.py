"""Entry point of the command kfp-osft; its subcommands are in command/."""

import sys
from collections.abc import Sequence

from kfp_osft import __version__
from kfp_osft.pipelines.command import check, compile_, demo, image, manifest, run, runtime
from kfp_osft.pipelines.command.parameter_options import with_values_of_flags
from kfp_osft.pipelines.command.parser import BAD_INPUT, Parser
from kfp_osft.shared.reporting.errors import InputError, TrainingError

_SUBCOMMANDS = (demo, run, check, compile_, manifest, image, runtime)
_FAILED = 1
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code: 0, 1 for a failed training, 2 for bad options or input."""
    parser = _parser()
    options = parser.parse_args(with_values_of_flags(sys.argv[1:] if arguments is None else arguments))
    program = f"{parser.prog} {options.command}"
    try:
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
        print(f"\n{program}: interrupted; the next run reuses the stages that completed", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parser() -> Parser:
    parser = Parser(prog="kfp-osft", description="Fine-tunes language models with OSFT.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{demo,run,check,compile,manifest,image,runtime}"
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
