"""A base model that an earlier run in the same workspace trained, and from which training continues."""

from collections.abc import Callable
from pathlib import Path

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.run_file import CHECKPOINTS, MODELS, read_run


def base_of_this_run(folder: Path, workspace: Path, run_from: Callable[[Path], str]) -> Path:
    """The folder that a training from `folder` starts from.

    final_model is a link to the model of the last run. Once a training from it completes, the link points to the new
    model, and the same call must not train a second time on top of that. So if the last model was trained from an
    earlier one in this workspace, by a run identical to this one, the earlier model is the base.

    Args:
        folder: the base model as it was given.
        workspace: of this run.
        run_from: the name that this run would have with another base model; raises InputError if that is not a model.
    """
    if not folder.is_symlink() or folder.resolve().parent != (workspace / MODELS).resolve():
        return folder
    model = folder.resolve()
    began_from = model
    try:
        run = read_run(workspace / CHECKPOINTS / model.name) or {}
        began_from = Path(run.get("osft", {}).get("model_path", ""))
        is_same = began_from.parent == model.parent and run_from(began_from) == model.name
    except InputError:
        is_same = False
    if not is_same:
        return model
    log(
        f"{folder} is the result of this same training from {began_from}, so it is not trained again; to continue "
        f"training from it, give training_base_model={model}"
    )
    return began_from
