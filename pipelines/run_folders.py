"""Where a run's model and checkpoints are: in its output folder, and around each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.knowledge.check import model_on_disk
from kfp_osft.shared.training.run_file import CHECKPOINTS, FINAL_MODEL, RUN_FILE, read_run


def last_model(model: str) -> str:
    """Of an output folder of kfp-osft run, the folder of its last model; anything else unchanged."""
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file() and (folder / FINAL_MODEL / "config.json").is_file():
        return str(folder / FINAL_MODEL)
    return model


def find_model(argument: str, model: str) -> Path:
    """The folder of a model; of an output folder of kfp-osft run, that of its last model.

    Args:
        argument: what an error calls it.
        model: a folder, or an id on the Hugging Face Hub.

    Raises:
        InputError: it is neither.
    """
    return model_on_disk(argument, last_model(model))


def checkpoints_of(model: Path, run: Mapping[str, Any]) -> Path | None:
    """The folder with the checkpoints of the run that made a model; None where the model is elsewhere now.

    Args:
        model: its folder, in the workspace: models/<run>, or final_model.
        run: its osft_run.json.
    """
    fingerprint = run.get("fingerprint")
    for workspace in model.absolute().parents[:2] if fingerprint else ():
        for record in sorted(workspace.glob(f"{CHECKPOINTS}/*/{RUN_FILE}")):
            if (read_run(record.parent) or {}).get("fingerprint") == fingerprint:
                return record.parent
    return None
