"""An artifact as KFP hands it to a stage's function."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any


def artifact(path: Path | str, uri: str = "", **metadata: object) -> Any:
    return SimpleNamespace(
        path=str(path),
        uri=uri or str(path),
        metadata=metadata,
        log_metric=lambda name, value: metadata.update({name: value}),
    )
