"""The sentence with which something is refused."""

from collections.abc import Callable

import pytest

from kfp_osft.shared.reporting.errors import InputError


def error_of(function: Callable, *arguments: object) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)
