"""Where a training went on from a saved state: a field of the step table, so that charts and comparisons show it."""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.training.metrics import number

#: Of the first step after resuming: the number of the last step before.
RESUMED_AFTER = "resumed_after"
# kfp_osft.stages.launch_trainjob.train_resume.RESUMED_FILE, without that script in the stages that only read it.
_FILE = "training_resumed.jsonl"


def with_resumptions(steps: Sequence[dict[str, Any]], checkpoint_dir: Path) -> list[dict[str, Any]]:
    """The steps, the first one after each resumption with RESUMED_AFTER.

    Args:
        steps: as read_steps gives them.
        checkpoint_dir: of the training, whose script notes there from which state it goes on.
    """
    first = {}
    for after in _noted(checkpoint_dir / _FILE):
        if later := [step["step"] for step in steps if step["step"] > after]:
            first[min(later)] = after
    return [{**step, RESUMED_AFTER: first[step["step"]]} if step["step"] in first else step for step in steps]


def resumptions(steps: Iterable[Mapping[str, Any]]) -> list[int]:
    """The last steps before each resumption."""
    found = (number(step.get(RESUMED_AFTER)) for step in steps)
    return [int(after) for after in found if not math.isnan(after)]


def _noted(file: Path) -> list[int]:
    """In order; an attempt that made no step before it was interrupted too noted the same as the next one."""
    found = set()
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            # The last line may be cut.
            with contextlib.suppress(ValueError, LookupError, TypeError):
                found.add(int(json.loads(line)["after_step"]))
    return sorted(found)
