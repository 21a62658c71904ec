"""Puts the declared training parameters into the docstrings from which KFP makes a form's descriptions."""

from collections.abc import Callable
from typing import TypeVar

from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS

_PLACE = "training parameters:"
_Function = TypeVar("_Function", bound=Callable)


def documented(function: _Function) -> _Function:
    """Replaces the line "training parameters:" among a docstring's Args by one line for each parameter."""
    indent = function.__doc__.split(_PLACE)[0].rpartition("\n")[2]
    lines = f"\n{indent}".join(f"{parameter.name}: {parameter.description}" for parameter in ALL_PARAMETERS)
    function.__doc__ = function.__doc__.replace(_PLACE, lines)
    return function
