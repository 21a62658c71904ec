"""Runs a test file with the plugin, in a pytest of its own.

The test modules name pytest's plugin pytester themselves: a conftest.py that is not at the root may not.
"""

import os
from collections.abc import Callable
from pathlib import Path

import kfp.local  # noqa: F401  pytester forgets what its runs import, and kfp's messages can be defined once
import pytest

import pytest_kfp_local

HEADER = """
import os
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
from kfp import dsl
from pytest_kfp_local import TaskFailed

component = dsl.component(base_image="python:3.11")
"""


@pytest.fixture
def run_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Writes a test file and runs it; all its tests pass unless the number that fails is given."""

    def run(source: str, *options: str, failed: int = 0, header: str = HEADER, own_process: bool = False):
        (pytester.path / "test_it.py").write_text(header + source, encoding="utf-8")
        if own_process:
            folder = Path(pytest_kfp_local.__file__).parent.parent
            monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        start = pytester.runpytest_subprocess if own_process else pytester.runpytest_inprocess
        result = start("-p", "pytest_kfp_local", "-p", "no:cacheprovider", *options)
        outcomes = result.parseoutcomes()
        assert outcomes.get("failed", 0) == failed and "errors" not in outcomes
        assert failed or outcomes["passed"]
        return result

    return run
