"""Part of the training script: validation on held-out rows, whichever mini-trainer there is, and the best models."""

import glob
import os
import shutil
import threading

from kfp_osft.stages.launch_trainjob.train_end import SAY

HELD_OUT_VARIABLE = "OSFT_HELD_OUT_ROWS"
_SECONDS_BETWEEN_SWEEPS = 10.0


def validation_as_known(osft_args: dict) -> dict:
    """The same arguments as this mini-trainer takes them.

    mini-trainer before 0.9 takes a share of the training's rows to validate on, no file of others, and validates every
    so many steps only. There the workers replace the share by the file, see validate_on.
    """
    from mini_trainer import TrainingArgs

    osft_args = dict(osft_args)
    rows = osft_args.get("validation_data_path")
    if rows is None or "validation_data_path" in TrainingArgs.__dataclass_fields__:
        return osft_args
    del osft_args["validation_data_path"]
    os.environ[HELD_OUT_VARIABLE] = rows
    # Any share above 0 switches validation on.
    osft_args["validation_split"] = 1e-9
    if osft_args.pop("validate_at_final", False):
        print(
            f"{SAY}this mini-trainer validates every {osft_args['validation_frequency']} steps only: the model after "
            "the last step is not validated"
        )
    return osft_args


def validate_on(rows: str) -> None:
    """Has mini-trainer's loader give all of the training's rows, and those of another file to validate on."""
    from mini_trainer import sampler

    get_data_loader = sampler.get_data_loader

    def get_both(data_path: str, validation_split: float = 0.0, **kwargs):
        training, _ = get_data_loader(data_path=data_path, **kwargs)
        held_out, _ = get_data_loader(data_path=rows, **kwargs)
        return training, held_out

    sampler.get_data_loader = get_both


class BestModels:
    """Deletes the best models that a better one has followed: each is as large as the model, and mini-trainer keeps
    all of them.

    Args:
        checkpoint_dir: of the training.
    """

    def __init__(self, checkpoint_dir: str) -> None:
        self._pattern = os.path.join(glob.escape(checkpoint_dir), "hf_format", "samples_*_best_val_loss")
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self, complete: bool) -> None:
        """The training has ended; `complete`: its last best model is whole."""
        self._ended.set()
        self._delete(keep=1 if complete else 2)

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_SWEEPS):
            # The last one may be half written.
            self._delete(keep=2)

    def _delete(self, keep: int) -> None:
        found = sorted(glob.glob(self._pattern), key=lambda path: float(os.path.basename(path).split("_")[1]))
        for folder in found[:-keep]:
            shutil.rmtree(folder, ignore_errors=True)
