"""YAML files that people write: config.yaml of a run, tasks.yaml of a sequence."""

from pathlib import Path
from typing import Any

import yaml

from kfp_osft.shared.reporting.errors import InputError


def read_yaml(file: Path) -> Any:
    """The content of a YAML file, which is a tree: no mapping has a key twice, and nothing contains itself.

    Raises:
        InputError: the file cannot be read, is not YAML, or has a key twice; names file and line.
    """
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return None
        if problem := _problem(root, ()):
            raise InputError(f"{file}: {problem}")
        return loader.construct_document(root)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8") from None
    except RecursionError:
        raise InputError(f"{file} is nested too deeply") from None
    # A date such as 2026-13-01 is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{file} is not valid YAML{place}: {getattr(error, 'problem', None) or error}") from None


def _problem(node: yaml.Node, inside: tuple[yaml.Node, ...]) -> str:
    """What PyYAML takes and nobody means: the last of two equal keys would win, and an alias may name its parent."""
    if any(node is each for each in inside):
        return f"the alias in line {node.start_mark.line + 1} contains itself"
    inside = (*inside, node)
    values = node.value if isinstance(node, yaml.CollectionNode) else ()
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                return f"{key.value} stands twice, in lines {lines[key.value]} and {key.start_mark.line + 1}"
            lines[str(key.value)] = key.start_mark.line + 1
        values = [each for pair in node.value for each in pair]
    return next(filter(None, (_problem(each, inside) for each in values)), "")
