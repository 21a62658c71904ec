"""A run's settings as a YAML file: kfp-osft run config.yaml, and --write-config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kfp_osft.pipelines.command.parameter_options import DECLARED, ROW_OPTIONS, option_of, options_of, value_of
from kfp_osft.pipelines.did_you_mean import did_you_mean
from kfp_osft.pipelines.yaml_file import read_yaml
from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.parameters.parameter import Parameter
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.redaction import redacted

EXTENSIONS = (".yaml", ".yml")
OUTPUT_DIR = "output_dir"
_HEAD = """\
# kfp-osft run {name}
# An option beside it wins: kfp-osft run {name} --num-epochs 3
"""


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings in a YAML file, by parameter name, and what each is called there, for messages.

    Keys are options without dashes (num_epochs, epochs, num-epochs) or parameter names (training_num_epochs), dataset,
    dataset_split, validation_uri, validation_uri_split, output_dir, evaluate and the parameters of an evaluation. Lists
    and mappings stand for what is separated by commas.

    Raises:
        InputError: the file cannot be read, or has an unknown key, a key twice or a value of another type.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must map names to values, as num_epochs: 2")
    names = _names()
    settings: dict[str, Any] = {}
    called: dict[str, str] = {}
    problems = []
    for key, given in content.items():
        name = names.get(str(key).replace("-", "_"))
        label = f"{path.name}: {key}"
        if name is None:
            problems.append(f"{label} is not a setting{did_you_mean(str(key).replace('-', '_'), _shown())}")
        elif name in settings:
            problems.append(f"{called[name]} and {key} are the same setting")
        else:
            called[name] = label
            try:
                settings[name] = _value(DECLARED.get(name), given)
            except ValueError as error:
                problems.append(f"{label}={given!r}: {error}")
    if problems:
        raise InputError("\n".join(problems))
    return {name: value for name, value in settings.items() if value is not None}, called


def write_config(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes settings, by parameter name, so that read_config gives them again.

    Raises:
        InputError: the file cannot be written, or a value has something secret in it.
    """
    for name, value in settings.items():
        if isinstance(value, str) and redacted(value) != value:
            raise InputError(
                f"--write-config={path}: {option_of(name)} has a password or signature in it, which does not belong "
                "into a file"
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as unfinished:
            text = yaml.safe_dump({key_of(name): value for name, value in settings.items()}, sort_keys=False)
            unfinished.write_text(_HEAD.format(name=path.name) + text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--write-config={path} cannot be written: {error.strerror}") from None


def key_of(name: str) -> str:
    """The key of a setting in the file: its option without dashes."""
    return name if name == OUTPUT_DIR else option_of(name)[2:].replace("-", "_")


def _names() -> dict[str, str]:
    """Key -> parameter name."""
    found = {OUTPUT_DIR: OUTPUT_DIR}
    for name in ROW_OPTIONS:
        found |= {name: name, key_of(name): name}
    for name in DECLARED:
        found |= {option[2:].replace("-", "_"): name for option in options_of(name)}
    return found


def _shown() -> list[str]:
    return [key_of(name) for name in (*ROW_OPTIONS, OUTPUT_DIR, *DECLARED)]


def _value(parameter: Parameter | None, given: Any) -> Any:
    if given is None:
        return None
    if parameter is None or parameter.type is str:
        return _text(given)
    kind = parameter.type
    if isinstance(given, bool) is not (kind is bool) or not isinstance(given, (bool, int, float, str)):
        raise ValueError({bool: "not true or false", int: "not an integer"}.get(kind, "not a number"))
    # YAML reads 1e-4, without a dot, as a string.
    return given if type(given) is kind else value_of(parameter, str(given))


def _text(given: Any) -> str:
    if isinstance(given, Mapping):
        return ",".join(f"{key}={_text(value)}" for key, value in given.items())
    if isinstance(given, list):
        return ",".join(map(_text, given))
    return str(given).lower() if isinstance(given, bool) else str(given)
