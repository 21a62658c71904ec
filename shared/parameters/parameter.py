"""How a training parameter is declared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: An optional int that is not given, in a KFP component: kfp.local cannot leave out an int without a default (it
#: calls int(None)).
UNSET_INT = -1


@dataclass(frozen=True)
class Parameter:
    """One training parameter.

    Attributes:
        name: as in the contract.
        type: str, int, float or bool.
        default: as in the contract; None means: not passed on, the library's default holds.
        doc: one sentence.
        allowed: the allowed values, in words.
        goes_to: "osft.KEY" (keyword KEY of training_hub.osft), "trainjob.KEY" (the TrainJob), "data.KEY" (what
            preprocess does with the rows), "env" (environment of the training) or "" (checked, and goes nowhere: see
            doc).
        is_allowed: says whether a typed value is allowed.
        when_left_out: for a default of None, what the library then uses; the sub-pipeline shows it as its default,
            because a pipeline parameter cannot be None.
        always_passed: when_left_out is the contract's and is passed, whatever the library's default.
        read: turns the checked value into what its place takes (for strings that hold lists and maps).
    """

    name: str
    type: type
    default: Any
    doc: str
    allowed: str
    goes_to: str
    is_allowed: Callable[[Any], bool] = lambda value: True
    when_left_out: Any = None
    always_passed: bool = False
    read: Callable[[str, Any], Any] = lambda name, value: value

    @property
    def optional(self) -> bool:
        """Whether None may be given."""
        return self.default is None

    @property
    def pipeline_default(self) -> Any:
        """The default where None is not possible."""
        return self.when_left_out if self.default is None else self.default

    @property
    def component_default(self) -> Any:
        """The default in a KFP component."""
        if self.always_passed:
            return self.when_left_out
        return UNSET_INT if self.optional and self.type is int else self.default

    @property
    def description(self) -> str:
        """One or two sentences for forms and docstrings."""
        return f"{self.doc} Allowed: {self.allowed}."
