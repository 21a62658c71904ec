"""Part of the training script: resuming from the state that mini-trainer saved when it was interrupted."""

import contextlib
import inspect
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kfp_osft.stages.launch_trainjob.train_end import SAY
from kfp_osft.stages.launch_trainjob.train_result import saved_states

# How mini-trainer 0.8 and 0.9 (train.py) find their place again: they pass over as many batches of the current epoch as
# they made steps in all epochs.
_PASSES_OVER_ALL_STEPS = "if _skipped_steps <= _resume_target_step:"
#: In the folder of checkpoints: from which steps the training went on; it goes when one starts anew.
RESUMED_FILE = "training_resumed.jsonl"
_ON_DEMAND, _OUTPUT_DIR = "--on-demand-checkpointing", "--output-dir="


def can_resume(osft: Callable, osft_args: dict) -> bool:
    """Whether mini-trainer can resume from a saved state; in a later epoch than the first only a version whose wrong
    count resume_exactly corrects."""
    import mini_trainer

    if (
        "enable_jit_checkpoint" not in inspect.signature(osft).parameters
        or "on_demand_checkpointing" not in mini_trainer.TrainingArgs.__dataclass_fields__
    ):
        return False
    if osft_args.get("num_epochs") == 1:
        return True
    try:
        return _PASSES_OVER_ALL_STEPS in (Path(mini_trainer.__file__).parent / "train.py").read_text(encoding="utf-8")
    except OSError:
        return False


def remove_cut_states(checkpoint_dir: str) -> None:
    """Removes the states that are not whole: mini-trainer would fail on them, in each attempt."""
    for state in saved_states(checkpoint_dir):
        # torch.save writes zip files, whose directory comes last; so does the metadata of the sharded weights.
        files = list(Path(state).glob("*.pt"))
        if not all(map(zipfile.is_zipfile, files)) or not Path(state, "distributed", ".metadata").is_file():
            shutil.rmtree(state, ignore_errors=True)


def step_of(state: str) -> int:
    """The number of steps that a training had made when it saved the state."""
    return int(Path(state).name.removeprefix("step_"))


def resume_exactly(arguments: list[str]) -> None:
    """In a worker: makes a training that resumes take the step that would have come next.

    mini-trainer passes over as many batches in the current epoch as it made steps in all; here the data loader gives it
    empty ones for the epochs before. And it leaves the optimizer at the learning rate of the first step until the
    second step after resuming.

    Args:
        arguments: of mini-trainer's train.py.
    """
    folder = next((each.removeprefix(_OUTPUT_DIR) for each in arguments if each.startswith(_OUTPUT_DIR)), "")
    states = saved_states(folder) if _ON_DEMAND in arguments and folder else set()
    if not states:
        return
    from mini_trainer import sampler
    from mini_trainer.full_state_checkpoint import FullStateCheckpointer

    step = max(map(step_of, states))
    get_data_loader = sampler.get_data_loader

    class FromTheFirstEpoch:
        """The loader of the training's rows."""

        def __init__(self, loader: Any) -> None:
            self._loader = loader

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loader, name)

        def __len__(self) -> int:
            return len(self._loader)

        def __iter__(self) -> Iterator:
            before = self._loader.sampler.epoch * len(self._loader)
            # A later epoch passes over nothing.
            if before <= step:
                yield from [None] * before
            yield from self._loader

    def get_resuming_data_loader(*args: Any, **kwargs: Any) -> tuple:
        loader, validation = get_data_loader(*args, **kwargs)
        return FromTheFirstEpoch(loader), validation

    if os.environ.get("RANK") == "0":
        print(f"{SAY}resuming after step {step}")
        # For people only: no reason to fail.
        with contextlib.suppress(OSError), open(Path(folder, RESUMED_FILE), "a", encoding="utf-8") as file:
            file.write(json.dumps({"after_step": step}) + "\n")
    sampler.get_data_loader = get_resuming_data_loader
    load_optimizer_state = FullStateCheckpointer.load_optimizer_state

    def load_with_learning_rate(checkpoint_dir: str | Path, optimizer: Any, rank: int) -> None:
        load_optimizer_state(checkpoint_dir, optimizer, rank)
        rates = FullStateCheckpointer.load_metadata(checkpoint_dir)["lr_scheduler_state"]["_last_lr"]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    FullStateCheckpointer.load_optimizer_state = staticmethod(load_with_learning_rate)
