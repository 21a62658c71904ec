"""For tests that compile: KFP in a hurry."""

import functools
import inspect
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from kfp.dsl import pipeline_task


@pytest.fixture(scope="session", autouse=True)
def quick_stack() -> Iterator[None]:
    """Each setting of a task looks at the whole call stack for the caller's name, with the source of each frame: of
    pytest's sixty frames that takes most of the time to compile a pipeline. Without the source it takes none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_task, "inspect", SimpleNamespace(stack=functools.partial(inspect.stack, 0)))
        yield
