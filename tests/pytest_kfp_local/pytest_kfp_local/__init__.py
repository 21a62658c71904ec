"""pytest plugin: the fixture kfp_local runs a KFP component or pipeline here, in the test's folder."""

from pathlib import Path

import pytest

from pytest_kfp_local.result import Result, Task, TaskFailed
from pytest_kfp_local.runner import KfpLocal

__all__ = ["KfpLocal", "Result", "Task", "TaskFailed", "kfp_local"]

# As it is imported, and short enough for pytest's summary.
TaskFailed.__module__ = __name__


@pytest.fixture
def kfp_local(tmp_path: Path) -> KfpLocal:
    """Runs KFP components and pipelines: kfp_local.run(component, argument=...); see KfpLocal."""
    return KfpLocal(tmp_path / "kfp-local")
