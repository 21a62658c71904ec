"""The training script as one text that stands alone, put together from its parts."""

import ast
from pathlib import Path

from kfp_osft.stages.source_text import without_words

# In the order in which they are defined: a part may use those before it.
_PARTS = (
    # What is secret, and what the trackers' variables are.
    "../../shared/parameters/environment.py",
    "../../shared/model/torchvision.py",
    "train_end.py",
    "train_attendance.py",
    "train_steps.py",
    "train_progress.py",
    "train_result.py",
    "train_resume.py",
    "train_remote_code.py",
    "train_on_cpu.py",
    "train_projection.py",
    "train_decomposition.py",
    "train_trackers.py",
    "train_validation.py",
    "train_script.py",
)
_PACKAGE = "kfp_osft"


def train_text() -> str:
    """The parts one after the other, without their imports of each other, docstrings and comments: the Trainer takes
    64 KiB in an item of a command (v2.2)."""
    folder = Path(__file__).parent
    return "\n\n".join(_alone(without_words((folder / part).read_text(encoding="utf-8"))) for part in _PARTS)


def _alone(source: str) -> str:
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _PACKAGE:
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(lines) + "\n"
