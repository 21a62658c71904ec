"""Annotations on the TrainJob that make Red Hat's Trainer track the progress of a training.

Source: opendatahub-io/trainer, pkg/rhai/progression. Other Trainers ignore them.
"""

from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.reporting.errors import InputError

#: Annotations of training_metadata_annotations with this prefix go on the TrainJob and override ours.
PROGRESS_PREFIX = "trainer.opendatahub.io/"

_TRACKING, _PORT = f"{PROGRESS_PREFIX}progression-tracking", f"{PROGRESS_PREFIX}metrics-port"
_DEFAULTS = {_TRACKING: "true", _PORT: "28080", f"{PROGRESS_PREFIX}metrics-poll-interval": "30s"}


def progress_annotations(trainjob: Mapping[str, Any]) -> dict[str, str]:
    """The annotations of the TrainJob.

    Args:
        trainjob: of the training config.
    """
    given = {name: value for name, value in trainjob["annotations"].items() if name.startswith(PROGRESS_PREFIX)}
    return _DEFAULTS | given


def progress_port(trainjob: Mapping[str, Any]) -> int:
    """The port on which the training pods serve their progress; 0 if tracking is off.

    Raises:
        InputError: the annotation is not a port that an unprivileged pod may open.
    """
    annotations = progress_annotations(trainjob)
    if annotations[_TRACKING] != "true":
        return 0
    port = annotations[_PORT]
    if not port.isdigit() or not 1024 <= int(port) <= 65535:
        raise InputError(
            f"training_metadata_annotations: {_PORT}={port} is not allowed; allowed: a port from 1024 to 65535"
        )
    return int(port)
