"""A base model that an earlier run in the same workspace made: training goes on from it."""

from collections.abc import Callable
from pathlib import Path

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.run_file import CHECKPOINTS, MODELS, read_run


def base_of_this_run(folder: Path, workspace: Path, run_from: Callable[[Path], str]) -> Path:
    """The folder that a training from `folder` begins from.

    final_model is a link to the model of the last run and means that one. Once the training from it is complete, the
    link leads to what came out; the same call again must not train a second time on top of that. So where the last
    model was made from an earlier one of this workspace, by the very run that this one would be, it is that run.

    Args:
        folder: the base model as it was given.
        workspace: of this run.
        run_from: the name that this run has with another base model; InputError where that cannot be one.
    """
    if not folder.is_symlink() or folder.resolve().parent != (workspace / MODELS).resolve():
        return folder
    model = folder.resolve()
    try:
        run = read_run(workspace / CHECKPOINTS / model.name) or {}
        began_from = Path(run.get("osft", {}).get("model_path", ""))
        is_same = began_from.parent == model.parent and run_from(began_from) == model.name
    except InputError:
        is_same = False
    if not is_same:
        return model
    log(
        f"{folder} is what this same training made of {began_from}, so it is not trained again; to train on from it, "
        f"give training_base_model={model}"
    )
    return began_from
