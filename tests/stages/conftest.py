from pathlib import Path

import pytest


@pytest.fixture
def pvc(tmp_path: Path) -> Path:
    """A workspace that is not there yet."""
    return tmp_path / "pvc"
