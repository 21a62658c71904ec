"""The local engine: the training script in a child process of this interpreter, followed to its end."""

import base64
import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import unicodedata
from pathlib import Path

from kfp_osft.shared import train_script
from kfp_osft.shared.errors import TrainingError
from kfp_osft.shared.log import log
from kfp_osft.shared.process_tree import ProcessTree, start_watchdog


def train_locally(train_args: dict, env: dict[str, str], log_path: Path) -> None:
    """Trains on this computer and returns when the training has succeeded.

    Runs the text of the training script, exactly as a cluster does, and logs one line per optimizer step.
    No process of it outlives this call, nor this process, however that one ends.

    Args:
        train_args: {"osft": keyword arguments of training_hub.osft, "device": "auto", "cuda" or "cpu"}.
        env: environment variables of the training, added to this process's own. The values of variables that
            are named like a secret (HF_TOKEN, WANDB_API_KEY, ...) are blotted out in all output.
        log_path: the trainer's whole output is appended to this file.

    Raises:
        TrainingError: the training failed; holds its exit code and its last lines.
    """
    environment = {**os.environ, **env}
    environment[train_script.ARGS_VARIABLE] = base64.b64encode(json.dumps(train_args).encode()).decode()
    secrets = _secret_values(environment)
    output = TrainerOutput(num_epochs=train_args["osft"].get("num_epochs") or 1)
    log_path = Path(log_path)
    log_path.parent.mkdir(parents=True, exist_ok=True)

    with (
        tempfile.TemporaryDirectory(prefix="kfp-osft-") as folder,
        log_path.open("a", encoding="utf-8") as log_file,
    ):
        script = Path(folder) / "train_script.py"
        script.write_text(Path(train_script.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        training = subprocess.Popen(
            [sys.executable, str(script)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        cleaner = threading.Thread(target=_end_leftovers, args=[training], daemon=True)
        cleaner.start()
        watchdog = None
        try:
            watchdog = start_watchdog(training.pid)
            for raw in training.stdout:
                line = _blot_out(raw.decode("utf-8", errors="replace"), secrets)
                log_file.write(line)
                log_file.flush()
                if (readable := output.read(line)) is not None:
                    log(readable)
        finally:
            if training.poll() is None:
                ProcessTree(training.pid).end()
            cleaner.join()
            training.stdout.close()
            if watchdog is not None:
                watchdog.kill()
                watchdog.wait()
    if training.returncode != 0:
        raise TrainingError(output.describe_failure(training.returncode, log_path))


class TrainerOutput:
    """Reads the training script's output line by line: what of it a person wants to see, and why it failed.

    mini-trainer prints some 25 lines of coloured JSON and a progress bar for each optimizer step, and much
    about its own setup. Of this come through: one line a step, warnings and errors, the data's size, saved
    checkpoints, and what the training script says itself.
    """

    _COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
    _PROGRESS_BAR = re.compile(r"\d%\||\[\d\d:\d\d[<,]|^Epoch \d+: .*tok/s$")
    _JSON_FIELD = re.compile(r'^"(\w+)"\s*:\s*(.*?),?$')
    _RANK = re.compile(r"^\[rank(\d+)\]: ?")
    # torchrun's own report, after the traceback of the worker that failed.
    _WORKER_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\)")
    _WORTH_READING = re.compile(
        r"warn|error|exception|fail|removed \d+ samples|saved model|dataset split|batches/epoch"
        r"|loading base model|computing distributed svd",
        re.IGNORECASE,
    )
    # Warnings for programmers, torch's internal log lines, and the marks below a line of a traceback.
    _NOT_WORTH_READING = re.compile(r"FutureWarning|DeprecationWarning|^\[?[EWI]\d{4} |^[~^]+$")

    def __init__(self, num_epochs: int) -> None:
        """num_epochs: the training's, from which the total number of steps follows."""
        self._num_epochs = num_epochs
        self._fields: dict = {}
        self._step_seconds: collections.deque[float] = collections.deque(maxlen=20)
        self._recent: collections.deque[str] = collections.deque(maxlen=2000)
        self._in_traceback = False
        self._worker_exit_code: int | None = None

    def read(self, raw: str) -> str | None:
        """One line of output as a readable line; None for the many that are noise."""
        line = self._plain(raw)
        text = line.strip()
        if not text or self._PROGRESS_BAR.search(text) or not re.search(r"\w|[{}]", text):
            return None
        if text == "{":
            self._fields = {}
            return None
        if text == "}":
            return self._step_line()
        if field := self._JSON_FIELD.match(text):
            self._fields[field[1]] = field[2]
            return None
        self._recent.append(line)
        if failed := self._WORKER_FAILED.search(text):
            self._worker_exit_code = self._worker_exit_code or int(failed[1])
        if self._worker_exit_code is not None:
            return None
        return self._worth_reading(self._RANK.sub("", line))

    def describe_failure(self, exit_code: int, log_path: Path) -> str:
        """Why a training failed, for a person: exit code, the last lines that matter, where the log is."""
        lines = [f"The training process ended with {_exit_name(exit_code)}."]
        if self._worker_exit_code is not None and self._worker_exit_code < 0:
            lines.append(f"A process of torchrun's ended with {_exit_name(self._worker_exit_code)}.")
        if -signal.SIGKILL in (exit_code, self._worker_exit_code):
            lines.append("Usually that is the system's answer to a process that wants too much memory.")
        lines += ["Its last lines:", *(f"  {line}" for line in self.last_words())]
        return "\n".join([*lines, f"The whole output: {log_path}"])

    def last_words(self, count: int = 20) -> list[str]:
        """The last lines that matter: the end of the first failing worker's traceback, no torchrun report."""
        lines = []
        for line in self._recent:
            if self._WORKER_FAILED.search(line):
                break
            lines.append(line)
        if lines and lines[-1].startswith(train_script.SAY):
            return [lines[-1].removeprefix(train_script.SAY)]
        starts = [i for i, line in enumerate(lines) if "Traceback (most recent call last)" in line]
        if starts and (rank := self._RANK.match(lines[starts[0]])):
            # Workers fail together and write at the same time: follow the first.
            lines = [line.removeprefix(rank[0]) for line in lines[starts[0] :] if line.startswith(rank[0])]
        return [line for line in lines if not self._NOT_WORTH_READING.search(line.strip())][-count:]

    def _plain(self, raw: str) -> str:
        """Without colours, pictures and what a carriage return has overwritten."""
        line = self._COLOUR.sub("", raw.rstrip("\r\n").rsplit("\r", 1)[-1]).rstrip()
        pictures = {char for char in line if unicodedata.category(char) == "So"}
        if pictures:
            line = "".join(char for char in line if char not in pictures and char != "\ufe0f").strip()
        return line

    def _worth_reading(self, line: str) -> str | None:
        if line.startswith("Traceback (most recent call last)"):
            self._in_traceback = True
            return None
        if self._in_traceback:
            # Frames are indented; the line after them names the exception.
            self._in_traceback = line.startswith(" ")
            return None if self._in_traceback else line
        if line.startswith(train_script.SAY):
            return line.removeprefix(train_script.SAY)
        if self._WORTH_READING.search(line) and not self._NOT_WORTH_READING.search(line.strip()):
            return line.strip()
        return None

    def _step_line(self) -> str | None:
        try:
            step, epoch = int(self._fields["step"]), int(self._fields["epoch"])
            total = int(self._fields["steps_per_epoch"]) * self._num_epochs
            loss, learning_rate = float(self._fields["loss"]), float(self._fields["lr"])
            tokens_per_second = float(self._fields["tokens_per_second"])
            seconds = float(self._fields["time_per_batch"])
        except (KeyError, ValueError):  # other JSON, such as the parameters
            return None
        # The first step pays for the start: it counts only until there is another.
        if step == 2:
            self._step_seconds.clear()
        self._step_seconds.append(seconds)
        left = (total - step) * sum(self._step_seconds) / len(self._step_seconds)
        return (
            f"step {step}/{total} | epoch {epoch + 1} | loss {loss:.4f} | lr {learning_rate:.3g} | "
            f"{tokens_per_second:.0f} tokens/s | {_duration(left)} left"
        )


def _end_leftovers(training: subprocess.Popen) -> None:
    """Ends what outlives the script: it would hold the script's output open, and its reader with it."""
    tree = ProcessTree(training.pid)
    while training.poll() is None:
        tree.living()
        with contextlib.suppress(subprocess.TimeoutExpired):
            training.wait(timeout=1)
    tree.end()


def _secret_values(environment: dict[str, str]) -> list[str]:
    name = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|CREDENTIALS?|KEY|APIKEY)($|_)", re.IGNORECASE)
    # A short value would blot out parts of words.
    found = {value for key, value in environment.items() if name.search(key) and len(value) >= 8}
    return sorted(found, key=len, reverse=True)


def _blot_out(line: str, secrets: list[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, "***")
    return line


def _exit_name(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {seconds:02d}s" if minutes else f"{seconds}s"
