"""The local engine: the training script in a child process of this interpreter, followed to its end."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, cast

from kfp_osft.shared.files.ownership import Ownership, owned
from kfp_osft.shared.parameters.environment import LOCAL, secret_values
from kfp_osft.shared.processes.process_tree import ProcessTree, start_watchdog
from kfp_osft.shared.processes.termination import terminable
from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import shown
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.attempts import SAVE_REQUEST, start_anew, was_complete
from kfp_osft.stages.launch_trainjob.train_result import metrics_size
from kfp_osft.stages.launch_trainjob.train_script import ARGS_VARIABLE
from kfp_osft.stages.launch_trainjob.train_text import train_text
from kfp_osft.stages.launch_trainjob.trainer_output import TrainerOutput

# mini-trainer waits as long for its workers.
_SECONDS_TO_SAVE = 300.0


class LocalTraining:
    """The training on this computer.

    Args:
        config: from preprocess.

    Attributes:
        name: in the place of a TrainJob's.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._config, self._checkpoint_dir = config, Path(config.osft["ckpt_output_dir"])
        self.name = f"{LOCAL}-{self._checkpoint_dir.name}"

    def owning(self, file: Path) -> AbstractContextManager[Ownership]:
        """Owns the checkpoints; waits for the training of another run."""
        return owned(file, "launch_trainjob")

    def train(self, ownership: Ownership, log_path: Path, before_creation: Callable[[], bool]) -> None:
        """Trains and returns when it is complete, or was so before.

        Args:
            ownership: of owning().
            log_path: gets all that the trainer prints.
            before_creation: make_ready.

        Raises:
            TrainingError: it failed; with its exit code and last lines.
        """
        config, folder = self._config, str(self._checkpoint_dir)
        if was_complete(self._checkpoint_dir):
            log(f"This training is complete in {folder}, although its stage was ended before: used again")
            return
        if config.trainjob["num_workers"] > 1:
            log(
                f"Warning: training_resource_num_workers={config.trainjob['num_workers']} has no effect on this "
                "computer: one worker trains"
            )
        log(
            f"Training {config.about['base_model']} on {config.about['samples']:,} samples, on this computer; "
            f"full log in {log_path}"
        )
        train_args = {
            "osft": {**config.osft, "nproc_per_node": config.trainjob["procs_per_worker"]},
            "device": "auto",
            "resumable": True,
            "report_to": config.data.get("report_to") or [],
        }
        resumes, before = before_creation(), metrics_size(folder)
        try:
            train_locally(train_args, config.env, log_path, ownership.add_process)
        except TrainingError as error:
            # Another number of GPUs, or a state that is damaged in a way that only shows when it is loaded.
            if not resumes or metrics_size(folder) > before:
                raise
            log(f"Warning: the training did not resume from its saved state, so it starts anew. {error}")
            start_anew(self._checkpoint_dir)
            train_locally(train_args, config.env, log_path, ownership.add_process)


def train_locally(
    train_args: dict, env: dict[str, str], log_path: Path, outlived_by: Callable[[int], None] = lambda pid: None
) -> None:
    """Trains on this computer and returns when the training has succeeded.

    Runs the same training script as a cluster does, and logs one line per optimizer step. None of its processes
    outlives this call or this process, however it ends. Interrupted by Ctrl-C or SIGTERM, a resumable training saves
    its state first; a second Ctrl-C ends it at once.

    Args:
        train_args: {"osft": keyword arguments of training_hub.osft, "device": "auto", "cuda" or "cpu", "resumable":
            true or false}.
        env: environment variables of the training, added to this process's own. The values of variables that
            are named like a secret (HF_TOKEN, WANDB_API_KEY, ...) are redacted in all output.
        log_path: the complete output of the trainer is appended to this file; the script is written beside it.
        outlived_by: gets the id of a process that lives as long as any of the training does, even when this one is
            killed.

    Raises:
        TrainingError: the training failed; with its exit code and last lines.
    """
    environment = {**os.environ, **env}
    environment[ARGS_VARIABLE] = base64.b64encode(json.dumps(train_args).encode()).decode()
    secrets = secret_values(environment)
    output = TrainerOutput(num_epochs=train_args["osft"].get("num_epochs") or 1)
    log_path = Path(log_path)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    # Not in a temporary folder, which a killed process would leave behind.
    script = log_path.with_name("training_script.py")
    script.write_text(train_text(), encoding="utf-8")
    # mini-trainer looks for it in /dev/shm, which only Linux has, under one name for all trainings.
    is_resumable = bool(train_args.get("resumable")) and os.path.isdir("/dev/shm")
    if is_resumable:
        request = log_path.absolute().with_name(SAVE_REQUEST)
        environment["CHECKPOINT_TRIGGER_FILENAME"] = os.path.relpath(request, "/dev/shm")
    steps_before = metrics_size(train_args["osft"].get("ckpt_output_dir", ""))

    with terminable(), log_path.open("a", encoding="utf-8") as log_file:
        training = subprocess.Popen(
            [sys.executable, str(script)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        output_pipe = cast(IO[bytes], training.stdout)
        cleaner = threading.Thread(target=_end_leftovers, args=[training], daemon=True)
        cleaner.start()
        watchdog = None
        try:
            watchdog = start_watchdog(training.pid)
            outlived_by(watchdog.pid)
            try:
                for line in _lines(output_pipe, log_file, secrets):
                    if (readable := output.read(line)) is not None:
                        log(readable)
            # Ctrl-C, SIGTERM, or nobody reads our output any more.
            except (KeyboardInterrupt, SystemExit, OSError):
                has_trained = metrics_size(train_args["osft"].get("ckpt_output_dir", "")) > steps_before
                if is_resumable and has_trained and training.poll() is None:
                    _let_it_save(training, _lines(output_pipe, log_file, secrets))
                raise
        finally:
            if training.poll() is None:
                ProcessTree(training.pid).end()
            cleaner.join()
            output_pipe.close()
            if watchdog is not None:
                watchdog.kill()
                watchdog.wait()
    if training.returncode != 0:
        raise TrainingError(output.describe_failure(training.returncode, log_path))


def _lines(output_pipe: IO[bytes], log_file: IO[str], secrets: Collection[str]) -> Iterator[str]:
    """The output line by line, each written to the log first."""
    for raw in output_pipe:
        line = shown(raw.decode("utf-8", errors="replace"), secrets)
        log_file.write(line)
        log_file.flush()
        yield line


def _let_it_save(training: subprocess.Popen, lines: Iterator[str]) -> None:
    """Has the training save its state, and waits until it has ended."""
    # Whoever reads our output may be gone.
    with contextlib.suppress(OSError):
        log("Interrupted: the training saves its state, and the same run will resume there (Ctrl-C again: end at once)")
    training.send_signal(signal.SIGTERM)
    limit = threading.Timer(_SECONDS_TO_SAVE, training.kill)
    limit.daemon = True
    limit.start()
    for _ in lines:
        pass
    limit.cancel()


def _end_leftovers(training: subprocess.Popen) -> None:
    """Ends processes that outlive the script: they would keep its output open, and block its reader."""
    tree = ProcessTree(training.pid)
    while training.poll() is None:
        tree.living()
        with contextlib.suppress(subprocess.TimeoutExpired):
            training.wait(timeout=1)
    tree.end()
