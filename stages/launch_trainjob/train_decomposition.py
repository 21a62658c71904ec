"""Part of the training script: how far the decomposition is that an OSFT training begins with, of which mini-trainer
says nothing: minutes on a CPU, and of a large model on a GPU too."""

import os
import time

from kfp_osft.stages.launch_trainjob.train_end import SAY

_SECONDS_BETWEEN_LINES = 10.0


class Decomposition:
    """Counts the matrices of the first rank as they are decomposed, and prints a line every ten seconds.

    mini-trainer gives each rank an equal share of the matrices, and the last one the rest. A singular value
    decomposition of m by n takes about as long as m * n * min(m, n) says.
    """

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._matrices, self._work = 0, 0.0
        self._done, self._work_done = 0, 0.0
        self._began = self._printed = time.monotonic()

    def expect(self, rows: int, columns: int) -> None:
        """One more matrix of this shape is to be decomposed, by some rank."""
        self._matrices += 1
        self._work += rows * columns * min(rows, columns)

    def begin(self) -> None:
        """A matrix is about to be decomposed."""
        if not self._done:
            self._began = self._printed = time.monotonic()

    def took(self, rows: int, columns: int) -> None:
        """A matrix of this shape is decomposed."""
        self._done += 1
        self._work_done += rows * columns * min(rows, columns)
        now = time.monotonic()
        if now - self._printed < _SECONDS_BETWEEN_LINES:
            return
        self._printed = now
        matrices = self._matrices // self._ranks
        if self._done > matrices:
            print(f"{SAY}Decomposed {self._done:,} matrices", flush=True)
            return
        left = (now - self._began) * max(0.0, self._work / self._ranks / self._work_done - 1)
        print(
            f"{SAY}Decomposed {self._done:,} of {matrices:,} matrices, {_duration(round(left))} left before the first "
            "step",
            flush=True,
        )


def tell_decomposition() -> None:
    """Has mini-trainer tell how far its decomposition is, on the first rank.

    It makes the parameters of all matrices first (create_svd_dict with use_meta), then decomposes them one by one.
    """
    if int(os.environ.get("RANK", "0")):
        return
    from mini_trainer import osft_utils

    create_svd_dict = osft_utils.create_svd_dict
    decomposition = Decomposition(int(os.environ.get("WORLD_SIZE", "1")))

    def create_and_tell(weight, *args, decompose_existing=True, use_meta=False, **kwargs):
        if use_meta:
            decomposition.expect(*weight.shape)
        elif decompose_existing:
            decomposition.begin()
        created = create_svd_dict(weight, *args, decompose_existing=decompose_existing, use_meta=use_meta, **kwargs)
        if decompose_existing and not use_meta:
            decomposition.took(*weight.shape)
        return created

    osft_utils.create_svd_dict = create_and_tell


def _duration(seconds: int) -> str:
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
