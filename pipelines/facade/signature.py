"""Gives a function that takes **training the declared training parameters as its signature."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Optional

from kfp_osft.pipelines.parameter_groups import group_of
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS, EXTRA_PARAMETERS, TRAINING_PARAMETERS
from kfp_osft.shared.parameters.parameter import Parameter
from kfp_osft.stages.training_parameters import documented


def pipeline_parameters(function: Callable, more: tuple[Parameter, ...] = ()) -> Callable:
    """For a pipeline function: concrete types and defaults in place of **training, since KFP drops None on the
    way through a nested pipeline. KFP calls such a function with all arguments in order.

    Args:
        function: to take the place of.
        more: declarations after those of the training.
    """
    own = _own_parameters(function)
    declarations = (*ALL_PARAMETERS, *more)
    declared = [_parameter(declaration, declaration.type, declaration.pipeline_default) for declaration in declarations]
    signature = inspect.signature(function).replace(parameters=[*own, *declared])

    @functools.wraps(function)
    def with_parameters(*args: Any, **kwargs: Any) -> Any:
        return function(**signature.bind(*args, **kwargs).arguments)

    return _with(documented(with_parameters, _in_form, declarations), signature)


def with_defaults(defaults: Mapping[str, Any]) -> Callable[[Callable], Callable]:
    """Gives parameters of a function other defaults, by name."""

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)
        parameters = [
            parameter.replace(default=defaults.get(name, parameter.default))
            for name, parameter in signature.parameters.items()
        ]
        return _with(function, signature.replace(parameters=parameters))

    return decorate


def contract_parameters(function: Callable) -> Callable:
    """For the facade: the contract's types, defaults and order, by keyword only as a KFP component takes them.

    Raises (when called):
        TypeError: an unknown name, a missing one, or a positional argument.
    """
    own = _own_parameters(function)
    declared = [
        _parameter(
            declaration, Optional[declaration.type] if declaration.optional else declaration.type, declaration.default
        )
        for declaration in TRAINING_PARAMETERS
    ]
    extra = [_parameter(declaration, declaration.type, declaration.default) for declaration in EXTRA_PARAMETERS]
    names = [parameter.name for parameter in own]
    # The contract's last parameter; those after it are additions.
    last = names.index("kubernetes_config")
    parameters = [*own[:last], *declared, own[last], *extra, *own[last + 1 :]]
    signature = inspect.signature(function).replace(
        parameters=[parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )

    @functools.wraps(function)
    def with_parameters(*args: Any, **kwargs: Any) -> Any:
        if args:
            raise TypeError(f"{function.__name__}() takes keyword arguments only ({len(args)} positional given)")
        try:
            arguments = signature.bind(**kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}") from None
        return function(**arguments)

    return _with(documented(with_parameters), signature)


def _in_form(parameter: Parameter) -> str:
    # KFP's form is in the order of the alphabet.
    return f"[{group_of(parameter)}] {parameter.description}"


def _own_parameters(function: Callable) -> list[inspect.Parameter]:
    return [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def _parameter(declaration: Parameter, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        declaration.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation
    )


def _with(function: Callable, signature: inspect.Signature) -> Callable:
    function.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]  read by inspect
    return function
