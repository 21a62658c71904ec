"""What earlier attempts at a training left in its checkpoint folder, and from where the next attempt starts."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import read_json_object, restore_replaced, write_json
from kfp_osft.shared.model.folder import is_whole_model
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.checkpoints import HF_FORMAT, Checkpoint, checkpoints
from kfp_osft.shared.training.metrics import number, read_steps
from kfp_osft.shared.training.run_file import RUN_FILE
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses
from kfp_osft.stages.launch_trainjob.train_result import COMPLETE_FILE, STATES_FOLDER, metrics_size, saved_states
from kfp_osft.stages.launch_trainjob.train_resume import remove_cut_states, step_of
from kfp_osft.stages.launch_trainjob.train_trackers import TENSORBOARD

#: In the checkpoint folder: the furthest checkpoint of attempts that could not be resumed.
INTERRUPTED = "interrupted"
#: In the checkpoint folder: mini-trainer saves its state once this exists (full_state_checkpoint.py).
SAVE_REQUEST = "training_save_request"
#: In the checkpoint folder: what a training had left that did not resume, until the one in its place has made a step.
NOT_RESUMED = "not_resumed"
# It goes when a training starts anew, as all files of that prefix.
_SECONDS = "training_seconds.json"


def whole_checkpoints(checkpoint_dir: Path) -> list[Checkpoint]:
    """The checkpoints whose files are all there and whole, the one to publish first."""
    restore_replaced(checkpoint_dir / HF_FORMAT)
    try:
        steps = read_steps(checkpoint_dir)
    except InputError:
        # collect_metrics reports it.
        steps = []
    losses = validation_losses(steps, loss_after_the_last_step(checkpoint_dir))
    return [each for each in checkpoints(checkpoint_dir, steps, losses) if is_whole_model(each.folder)]


def make_ready(checkpoint_dir: Path) -> bool:
    """Prepares the folder for the next attempt, and logs from where it starts.

    A state that mini-trainer saved when it was interrupted is kept, with the metrics and checkpoints before it. Without
    one, the training starts anew: from the checkpoint of an earlier epoch it would be another training, as OSFT would
    decompose other weights and so protect other directions, and optimizer and learning rate would begin again. That
    checkpoint is set aside.

    Returns:
        whether the attempt resumes.
    """
    # Only the coming training may write them.
    for name in (COMPLETE_FILE, RUN_FILE, SAVE_REQUEST):
        (checkpoint_dir / name).unlink(missing_ok=True)
    _bring_back(checkpoint_dir)
    remove_cut_states(str(checkpoint_dir))
    if states := sorted(saved_states(str(checkpoint_dir)), key=step_of):
        for earlier in states[:-1]:
            shutil.rmtree(earlier)
        step = step_of(states[-1])
        _remove_later_checkpoints(checkpoint_dir, step)
        log(f"The training resumes after step {step}: its state was saved when it was interrupted")
        return True
    _set_aside(checkpoint_dir, checkpoint_dir / INTERRUPTED)
    # mini-trainer would append to its metrics.
    for leftover in _of_a_training(checkpoint_dir):
        _remove(leftover)
    return False


def start_anew(checkpoint_dir: Path) -> None:
    """In place of a training that did not resume: what it left is set aside, and is brought back by the next make_ready
    where the new one does not make a step either, as when memory is short."""
    folder = checkpoint_dir / NOT_RESUMED
    folder.mkdir()
    for leftover in _of_a_training(checkpoint_dir):
        os.replace(leftover, folder / leftover.name)


def has_its_checkpoint(checkpoint_dir: Path, run: Mapping[str, Any], tell: bool) -> bool:
    """Whether the checkpoint of a complete training is still there and whole, if it saved one.

    Args:
        run: as launch_trainjob wrote it.
        tell: logs that it is not.
    """
    restore_replaced(checkpoint_dir / HF_FORMAT)
    name = run["checkpoint"]
    if name is None or is_whole_model(checkpoint_dir / HF_FORMAT / name):
        return True
    if tell:
        log(f"Warning: this training was complete, but its checkpoint {name} is gone or cut: training again")
    return False


def clean_up(checkpoint_dir: Path) -> None:
    """Removes what only an incomplete training needs: several times the model's size."""
    (checkpoint_dir / _SECONDS).unlink(missing_ok=True)
    for name in (STATES_FOLDER, INTERRUPTED, NOT_RESUMED):
        shutil.rmtree(checkpoint_dir / name, ignore_errors=True)


def was_complete(checkpoint_dir: Path) -> bool:
    """Whether an attempt came to its end, although its stage did not live to say so."""
    has_said_so = (checkpoint_dir / RUN_FILE).exists()
    return not has_said_so and (checkpoint_dir / COMPLETE_FILE).is_file() and bool(whole_checkpoints(checkpoint_dir))


def spent_seconds(checkpoint_dir: Path) -> float:
    """The seconds that the attempts before took whose state the next one resumes, or whose result is used."""
    try:
        return float(read_json_object(checkpoint_dir / _SECONDS).get("seconds", 0.0))
    except (ValueError, TypeError):
        return 0.0


def note_seconds(checkpoint_dir: Path, seconds: float) -> None:
    """Notes how long an attempt took that failed or was interrupted, with those whose state it resumed."""
    with contextlib.suppress(OSError):
        write_json(checkpoint_dir / _SECONDS, {"seconds": round(seconds, 1)})


def _remove_later_checkpoints(checkpoint_dir: Path, step: int) -> None:
    """Those that an attempt saved after the state; the next one saves its own."""
    try:
        counts = {each["step"]: number(each.get("total_samples_accumulated")) for each in read_steps(checkpoint_dir)}
    except InputError:
        return
    for checkpoint in checkpoints(checkpoint_dir):
        # Of a step without a line nothing is known: NaN.
        if checkpoint.samples > counts.get(step, float("nan")):
            shutil.rmtree(checkpoint.folder)


def _of_a_training(checkpoint_dir: Path) -> list[Path]:
    """All that a training writes, its metrics first; the data of preprocess, and the log, are not among it."""
    folders = (checkpoint_dir / name for name in (HF_FORMAT, STATES_FOLDER, TENSORBOARD))
    return [*checkpoint_dir.glob("training_*"), *(each for each in folders if each.exists())]


def _bring_back(checkpoint_dir: Path) -> None:
    """See start_anew. The metrics come last, as they went first: killed in between, the next call goes on."""
    folder = checkpoint_dir / NOT_RESUMED
    if not folder.is_dir():
        return
    if metrics_size(str(checkpoint_dir)):
        _set_aside(folder, checkpoint_dir / INTERRUPTED)
    else:
        for leftover in reversed(_of_a_training(folder)):
            _remove(checkpoint_dir / leftover.name)
            os.replace(leftover, checkpoint_dir / leftover.name)
    shutil.rmtree(folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _set_aside(checkpoint_dir: Path, folder: Path) -> None:
    """Keeps the furthest whole checkpoint of a training in the folder, if none is further there."""
    found = max(whole_checkpoints(checkpoint_dir), key=lambda each: each.samples, default=None)
    if found is None:
        return
    earlier = [each for each in folder.glob("*") if each.is_dir()]
    if any(float(each.name.split("_")[1]) >= found.samples for each in earlier):
        return
    folder.mkdir(exist_ok=True)
    os.replace(found.folder, folder / found.folder.name)
    for each in earlier:
        shutil.rmtree(each, ignore_errors=True)
    log(
        f"An earlier attempt ended without saving its state, so the training starts anew. Its last checkpoint stays in "
        f"{folder / found.folder.name} until this training is complete; to train on from it instead, as a training of "
        "its own, give that folder as training_base_model"
    )
