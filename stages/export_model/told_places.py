"""The places that a model's osft_run.json names: those that are there after the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.run_workspace import goes_with_the_run

# Told under other names, or of the run's own stages alone.
_LEFT_OUT = ("made_from", "data", "env", "trainjob")


def without_places_of_the_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """What launch_trainjob wrote, less the paths on the volume that goes with the run."""
    told = {key: value for key, value in run.items() if key not in _LEFT_OUT}
    return told | {key: _lasting(told[key]) for key in ("osft", "about") if key in told}


def lasting_name(base_model: str) -> str:
    """The base model as it was given; of a folder that goes with the run, its name."""
    return Path(base_model).name if goes_with_the_run(base_model) else base_model


def dataset_told(path: str, source: Mapping[str, str]) -> dict[str, Any]:
    """The dataset of a run.

    Args:
        path: where resolve_dataset left the rows; empty where it is not known.
        source: as dataset_source gives it.

    Returns:
        name; path, where it is there after the run; and what the source says.
    """
    return {"name": Path(path).name, **_lasting({"path": path} if path else {}), **source}


def _lasting(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not (isinstance(value, str) and goes_with_the_run(value))}
