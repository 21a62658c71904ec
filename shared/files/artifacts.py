"""Files of the workspace as KFP artifacts.

On a cluster KFP's launcher uploads what lies at an artifact's path when the task has succeeded, and follows symbolic
links, so that nothing has to be copied to the pod's own disk. With kfp.local the artifact stays where it is.
"""

import shutil
from pathlib import Path
from typing import Any, Protocol


class OutputArtifact(Protocol):
    """The part of a KFP output artifact that is used here; KFP sets both."""

    @property
    def path(self) -> str: ...

    @property
    def uri(self) -> str: ...


class MetricsArtifact(Protocol):
    """The part of a KFP Metrics artifact that is used here."""

    metadata: dict[str, Any]

    def log_metric(self, metric: str, value: float) -> None: ...


def is_uploaded(artifact: OutputArtifact) -> bool:
    """Whether KFP uploads the artifact from its path, and the path goes with the pod."""
    return "://" in artifact.uri


def place_file(file: Path, artifact: OutputArtifact) -> None:
    """Makes a file the artifact's content; the file must not change until the task has ended."""
    place = Path(artifact.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    if is_uploaded(artifact):
        place.symlink_to(file.absolute())
    else:
        shutil.copyfile(file, place)
