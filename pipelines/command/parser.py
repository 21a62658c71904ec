"""The command's argument parser: one line for what is wrong, with a suggestion, and a help in groups."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from kfp_osft.pipelines.did_you_mean import did_you_mean

#: Exit code for bad options and bad input.
BAD_INPUT = 2
#: The `const` of an option that is a switch, and may have true or false behind it.
SWITCH = "true"

# Words of other trainers for what has another name here.
_SYNONYMS = {
    "--model": "--base-model",
    "--model-name": "--base-model",
    "--model-name-or-path": "--base-model",
    "--data": "--dataset",
    "--train-file": "--dataset",
    "--output": "--output-dir",
    "--out": "--output-dir",
    "--max-length": "--max-seq-len",
    "--max-seq-length": "--max-seq-len",
    "--num-train-epochs": "--num-epochs",
    "--ratio": "--unfreeze-rank-ratio",
    "--rank-ratio": "--unfreeze-rank-ratio",
    "--train-batch-size": "--batch-size",
    "--per-device-train-batch-size": "--batch-size",
    "--scheduler": "--lr-scheduler",
    "--lr-scheduler-type": "--lr-scheduler",
    "--warmup-steps": "--lr-warmup-steps",
    "--eval-dataset": "--validation-uri",
    "--push-to-hub": "--export-uri",
    "--config": "kfp-osft run config.yaml",
}


class Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line, without the usage; options are not abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": HelpFormatter, **kwargs})

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As argparse does it, but what a subcommand's parser does not know is an error of that subcommand, and a
        switch takes no argument but true and false."""
        parsed, unknown = super().parse_known_args(args if args is None else self._with_values(args), namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return parsed, unknown

    def _with_values(self, arguments: Sequence[str]) -> list[str]:
        """The arguments with "=true" behind each switch that has no value, so that one stands before anything."""
        switches = {option for action in self._actions if action.const == SWITCH for option in action.option_strings}
        follows = [*arguments, ""][1:]
        return [
            f"{argument}={SWITCH}" if argument in switches and after.lower() not in ("true", "false") else argument
            for argument, after in zip(arguments, follows, strict=True)
        ]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # The only choices with names that people mistype are the subcommands.
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            known = did_you_mean(value, action.choices) or f"; the commands are {', '.join(action.choices)}"
            raise argparse.ArgumentError(None, f"unknown command {value}{known}")
        super()._check_value(action, value)

    def _unknown(self, arguments: Sequence[str]) -> str:
        for argument in arguments:
            if argument.startswith("-"):
                option, known = argument.partition("=")[0], self.all_options()
                # What this subcommand does not have either is no help.
                synonyms = {word: ours for word, ours in _SYNONYMS.items() if ours in known or self.prog in ours}
                return f"unknown option {option}{did_you_mean(option, known, synonyms)}"
        return f"unexpected argument {arguments[0]!r}"

    def all_options(self) -> list[str]:
        """The options that the help shows."""
        return [
            option
            for action in self._actions
            if action.help is not argparse.SUPPRESS
            for option in shown_options(action)
        ]


class HelpFormatter(argparse.HelpFormatter):
    """Shows an option once, with its value behind its last name, and not its name as a pipeline's parameter."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names, choices = ", ".join(shown_options(action)), "|".join(map(str, action.choices or ()))
        return names if action.nargs == 0 else f"{names} {action.metavar or choices or action.dest.upper()}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # An example keeps its lines.
        return text if "\n" in text else super()._fill_text(text, width, indent)


def shown_options(action: argparse.Action) -> list[str]:
    """The names of an option that people type; --training-num-epochs works too."""
    return [option for option in action.option_strings if not option.startswith("--training-")]
