"""What the training gets beside the rows: when to validate, and where to report; checked as far as it can be known."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.parameters.checking import CheckedParameters
from kfp_osft.shared.parameters.environment import is_local, is_of_unwanted_tracker
from kfp_osft.shared.parameters.trainer_parameters import EACH_EPOCH
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.tracking.mlflow_run import TRACKING_URI, is_installed, is_wanted

# mini-trainer starts a tracker once this is in its environment.
_STARTS = {"mlflow": TRACKING_URI, "wandb": "WANDB_PROJECT"}


def check_validation(checked: CheckedParameters, has_held_out: bool) -> None:
    """Sees that there are rows to validate on, and a validation to choose the best model by.

    Raises:
        InputError: one of them is missing.
    """
    every = checked.data.get("validation_every")
    if every and not has_held_out:
        raise InputError(
            f"training_validation_every={every}: there are no held-out rows to validate on; give "
            "training_validation_split or validation_uri, or leave it empty"
        )
    if checked.osft.get("save_best_val_loss") and not every:
        raise InputError(
            "training_save_best=True: the best model is the one with the lowest validation loss, and nothing is "
            f"validated; give training_validation_every ({EACH_EPOCH}, or a number of steps)"
        )


def validation_arguments(every: str, held_out_path: str, planned: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of mini-trainer (TrainingArgs) for a validation on a file of held-out rows.

    At the end of an epoch is at a step here, because mini-trainer before 0.9 knows steps only.

    Args:
        every: training_validation_every.
        held_out_path: tokenized rows.
        planned: as planned_training gives it.

    Raises:
        InputError: more steps than the training has.
    """
    steps = planned["steps"] // planned["epochs"] if every == EACH_EPOCH else int(every)
    if steps > planned["steps"]:
        raise InputError(
            f"training_validation_every={every}: the training has only {planned['steps']:,} steps, so it would never "
            f"validate; give a smaller number, or {EACH_EPOCH}"
        )
    found: dict[str, Any] = {"validation_data_path": held_out_path, "validation_frequency": steps}
    if planned["steps"] % steps:
        found["validate_at_final"] = True
    return found


def check_trackers(checked: CheckedParameters) -> None:
    """Sees that MLflow, and a tracker that the training is to report to, can start, as far as it can be known here.

    Raises:
        InputError: its package, which would run in this environment, is not installed; the variable that starts it is
            missing.
    """
    if is_wanted() and not is_installed():
        log(
            f"Warning: {TRACKING_URI} is set, but MLflow is not installed here, so that nothing of this run is "
            "logged there; the image of the stages needs mlflow-skinny, or mlflow"
        )
    wanted = checked.data.get("report_to") or []
    environment = {**os.environ, **checked.env}
    for tracker, variable in _STARTS.items():
        if tracker not in wanted:
            continue
        if not environment.get(variable):
            raise InputError(
                f"training_report_to={tracker}: the environment has no {variable}, which tells the training where to "
                "report; give it in training_envs, or to the pipeline's task"
            )
        if not is_local():
            log(f"training_report_to={tracker}: the image of the training must have the package {tracker}")
        elif importlib.util.find_spec(tracker) is None:
            raise InputError(
                f"training_report_to={tracker}: the package {tracker} is not installed in this environment, and the "
                f"training would fail; install it (pip install {tracker})"
            )
    for variable in checked.env:
        if is_of_unwanted_tracker(variable, wanted):
            log(
                f"Warning: training_envs: {variable} does not reach the training; it does with "
                f"training_report_to={variable.partition('_')[0].lower()}"
            )
