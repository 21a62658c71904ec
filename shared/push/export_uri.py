"""The parameter export_uri: publishes the model of a run where it outlives the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.push.push import push_model
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.tracking.mlflow_run import tracked_run


def push_to_export_uri(model: Path, export_uri: str, run: Mapping[str, Any] | None) -> str:
    """Pushes a model, and tags its run in MLflow with the place.

    Args:
        model: its folder in the workspace.
        export_uri: as push_model takes it.
        run: what read_run gives; None for a model that is no run's.

    Returns:
        The place, as push_model gives it.

    Raises:
        InputError: the push failed.
    """
    try:
        place = push_model(model, export_uri, "export_uri")
    except InputError as error:
        raise InputError(f"{error}. The model itself is complete, in {model}; a retry goes on with the push") from None
    with tracked_run(run) as tracked:
        if tracked is not None:
            tracked.set_tags({"export_uri": place})
    return place
