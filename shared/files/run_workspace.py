"""The volume that KFP makes for a run, and removes as soon as the run has succeeded."""

from pathlib import Path

#: Where KFP mounts it (kfp.dsl.constants.WORKSPACE_MOUNT_PATH).
MOUNT_PATH = Path("/kfp-workspace")


def goes_with_the_run(path: str | Path) -> bool:
    """Whether the path is on that volume, so that nobody finds it there after a success."""
    return Path(path).is_relative_to(MOUNT_PATH)
