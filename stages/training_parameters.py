"""Puts the declared training parameters into a function's signature and docstring, from which KFP makes its inputs."""

import inspect
from collections.abc import Callable
from typing import Optional, TypeVar

from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.parameter import Parameter

_PLACE = "training parameters:"
_Function = TypeVar("_Function", bound=Callable)


def documented(
    function: _Function,
    describe: Callable[[Parameter], str] = lambda parameter: parameter.description,
    parameters: tuple[Parameter, ...] = ALL_PARAMETERS,
) -> _Function:
    """Replaces the line "training parameters:" among a docstring's Args by one line for each parameter."""
    doc = function.__doc__ or ""
    indent = doc.split(_PLACE)[0].rpartition("\n")[2]
    lines = f"\n{indent}".join(f"{parameter.name}: {describe(parameter)}" for parameter in parameters)
    function.__doc__ = one_line_each(doc.replace(_PLACE, lines))
    return function


def one_line_each(docstring: str) -> str:
    """The docstring with each entry of Args and Returns on one line: KFP's form shows line breaks."""
    lines: list[str] = []
    entry = 0
    for line in docstring.split("\n"):
        depth = len(line) - len(line.lstrip())
        if line.strip() in ("Args:", "Returns:"):
            entry = depth + 4
        elif line.strip() and depth < entry:
            entry = 0
        if entry and line.strip() and depth > entry:
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


def with_training_parameters(function: _Function) -> _Function:
    """Replaces **training in a component function's signature by the declared parameters."""
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    declared = [
        inspect.Parameter(
            parameter.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=parameter.component_default,
            annotation=Optional[parameter.type] if parameter.component_default is None else parameter.type,
        )
        for parameter in ALL_PARAMETERS
    ]
    function.__signature__ = signature.replace(parameters=[*own, *declared])  # pyright: ignore[reportFunctionMemberAccess]
    return function
