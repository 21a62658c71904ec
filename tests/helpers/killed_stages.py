"""A program for tests/faults: kills a stage at many of its file operations, runs it again each time, and compares.

Argument: JSON with stage, folder (empty), model, rows, url (of rows behind HTTP), kills and seed. Prints JSON as its
last line: operations (file operations of an undisturbed run), kills, wrong (reruns with another result), tracebacks,
left (unfinished and temporary files after the rerun).
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from helpers.trained_folder import make_trained_folder

_CHANGES = {
    "ctypes.dlsym",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "shutil.copyfile",
    "subprocess.Popen",
}
_WRITING = os.O_WRONLY | os.O_RDWR
_SECONDS = 120
# What differs from run to run and is no part of the result.
_APART = ("training.log", "training_script.py", "library_versions.json")

#: In the place of mini-trainer: the same files in the same order, in a moment.
TRAINING = """
import base64, json, os, shutil, time
from pathlib import Path
args = json.loads(base64.b64decode(os.environ["OSFT_TRAIN_ARGS"]))["osft"]
folder = Path(args["ckpt_output_dir"])
for step in range(1, 9):
    with (folder / "training_metrics_0.jsonl").open("a") as file:
        line = {"step": step, "epoch": (step - 1) // 4, "loss": 6.0 - step / 4, "total_samples_accumulated": 8 * step}
        file.write(json.dumps(line) + "\\n")
    print(json.dumps(line), flush=True)
    time.sleep(0.02)
    if step % 4 == 0:
        checkpoint = folder / "hf_format" / f"samples_{8 * step}.0"
        checkpoint.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(args["model_path"]).iterdir(), reverse=True):
            shutil.copy(file, checkpoint)
(folder / "training_complete.json").write_text("{}")
"""


class Stage:
    """What is killed: `prepare` makes a workspace, `run` runs the stage there and returns what it returned."""

    def __init__(self, prepare: Callable[[Path], Any], run: Callable[[Path], Any]) -> None:
        self.prepare, self.run = prepare, run


def _artifact(path: Path) -> SimpleNamespace:
    return SimpleNamespace(path=str(path), uri=str(path), metadata={}, log_metric=lambda name, value: None)


def _stage(name: str, given: dict[str, Any]) -> Stage:
    model, rows = Path(given["model"]), Path(given["rows"])
    training = {"training_base_model": str(model), "training_max_seq_len": 256}

    def with_training(workspace: Path) -> None:
        make_trained_folder(workspace / "checkpoints" / "run", model, ("32.0", "64.0"))

    if name == "resolve_dataset":
        from kfp_osft.stages.resolve_dataset.source import resolve

        def resolve_all(workspace: Path) -> Any:
            artifact = _artifact(rows)
            return [
                resolve(given["url"], "train", str(workspace), None, str(rows)),
                resolve("", "train", str(workspace), artifact),
            ]

        return Stage(lambda workspace: None, resolve_all)
    if name == "preprocess":
        from kfp_osft.stages.preprocess.training_data import preprocess_dataset

        return Stage(
            lambda workspace: None,
            lambda workspace: preprocess_dataset(
                str(rows), str(workspace), training | {"training_validation_split": 0.25}
            ),
        )
    if name == "launch_trainjob":
        from kfp_osft.stages.launch_trainjob import local_engine
        from kfp_osft.stages.launch_trainjob.launch import launch
        from kfp_osft.stages.preprocess.training_data import preprocess_dataset

        local_engine.train_text = lambda: TRAINING
        os.environ["OSFT_LAUNCHER"] = "local"
        prepared = Path(given["folder"]) / "workspace"
        config = preprocess_dataset(str(rows), str(prepared), training).training_config
        shutil.copytree(prepared, prepared.with_name("preprocessed"))
        return Stage(
            lambda workspace: shutil.copytree(prepared.with_name("preprocessed"), workspace, dirs_exist_ok=True),
            lambda workspace: launch(config, str(workspace), None),
        )
    if name == "collect_metrics":
        from kfp_osft.stages.collect_metrics.collection import collect

        return Stage(
            with_training,
            lambda workspace: collect(
                str(workspace / "checkpoints" / "run"),
                _artifact(workspace / "metrics"),
                _artifact(workspace / "artifacts" / "steps"),
                _artifact(workspace / "artifacts" / "log"),
            ),
        )
    if name == "render_loss_chart":
        from kfp_osft.shared.training.metrics import read_steps, write_table
        from kfp_osft.stages.render_loss_chart.rendering import render

        def with_table(workspace: Path) -> None:
            with_training(workspace)
            folder = workspace / "checkpoints" / "run"
            write_table(read_steps(folder), folder / "metrics.jsonl")

        return Stage(
            with_table,
            lambda workspace: render(
                str(workspace / "checkpoints" / "run" / "metrics.jsonl"), str(workspace / "artifacts" / "chart")
            ),
        )
    if name == "export_model":
        from kfp_osft.stages.export_model.export import export_model

        return Stage(
            with_training,
            lambda workspace: export_model(
                str(workspace / "checkpoints" / "run"), str(workspace), _artifact(workspace / "artifacts" / "model")
            ),
        )
    raise ValueError(name)


def main() -> None:
    given = json.loads(sys.argv[1])
    folder = Path(given["folder"])
    workspace, temporary = folder / "workspace", folder / "tmp"
    temporary.mkdir(parents=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    stage = _stage(given["stage"], given)
    answer = folder / "answer.json"

    def fresh() -> None:
        for place in (workspace, temporary):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        stage.prepare(workspace)

    def run(at: int = 0) -> int | str | None:
        """Runs the stage in a child, killed at that operation: the number of its operations, a traceback, or None if it
        was killed. What it made is in `answer`."""
        child = os.fork()
        if child == 0:
            _run_here(stage, workspace, at, answer)
        status = os.waitpid(child, 0)[1]
        _end_of_processes(workspace)
        if os.WIFSIGNALED(status):
            return None if os.WTERMSIG(status) == signal.SIGKILL else f"ended by signal {os.WTERMSIG(status)}"
        content = json.loads(answer.read_text())
        return content["error"] or content["operations"]

    fresh()
    # Once before, so that caches are as warm as they will be.
    assert isinstance(run(), int), answer.read_text()
    expected = json.loads(answer.read_text())["made"]
    fresh()
    operations = run()
    assert isinstance(operations, int), operations
    places = sorted(random.Random(given["seed"]).sample(range(1, operations + 1), min(given["kills"], operations)))
    found: dict[str, Any] = {"operations": operations, "kills": 0, "wrong": [], "tracebacks": [], "left": []}
    for place in places:
        fresh()
        killed = run(place)
        found["kills"] += killed is None
        if isinstance(killed, str):
            found["tracebacks"].append(f"operation {place}: {killed}")
        again = run()
        if isinstance(again, str):
            found["tracebacks"].append(f"after operation {place}: {again}")
        elif json.loads(answer.read_text())["made"] != expected:
            made = json.loads(answer.read_text())["made"]
            found["wrong"].append(
                [place, *sorted(key for key in made.keys() | expected.keys() if made.get(key) != expected.get(key))]
            )
        left = [path for path in workspace.rglob(".*") if path.name.endswith((".unfinished", ".previous", ".link"))]
        left += list(temporary.iterdir())
        if left:
            found["left"].append([place, *map(str, left)])
    print("\n" + json.dumps(found))


def _run_here(stage: Stage, workspace: Path, at: int, answer: Path) -> None:
    """Runs the stage in this process, which is a child, and ends it."""
    operations = 0
    own = os.getpid()

    def count(event: str, arguments: tuple) -> None:
        nonlocal operations
        if os.getpid() != own:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if event in _CHANGES or writes:
            operations += 1
            if operations == at:
                os.kill(own, signal.SIGKILL)

    error, made = None, {}
    try:
        signal.alarm(_SECONDS)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            sys.addaudithook(count)
            returned = stage.run(workspace)
            at, operated = 0, operations
        made = {"returned": json.dumps(returned, default=str), **_results(workspace)}
        answer.write_text(json.dumps({"operations": operated, "error": None, "made": made}))
    except BaseException:
        error = traceback.format_exc()
        answer.write_text(json.dumps({"operations": operations, "error": error, "made": made}))
    finally:
        os._exit(0)


def _results(workspace: Path) -> dict[str, str]:
    """Digest of each visible file below the workspace, by its path. Times of a run are left out of its record."""
    found = {}
    for file in sorted(workspace.rglob("*")):
        name = file.relative_to(workspace)
        if file.is_file() and not any(part.startswith(".") for part in name.parts) and file.name not in _APART:
            content = file.read_bytes()
            if file.name == "osft_run.json":
                content = json.dumps(json.loads(content) | {"seconds": 0}).encode()
            found[str(name)] = hashlib.sha256(content).hexdigest()
    return found


def _end_of_processes(workspace: Path) -> None:
    """Waits until no process that was started for the workspace lives; fails if one does for long."""
    deadline = time.monotonic() + 30
    while True:
        living = [
            process.info["cmdline"]
            for process in psutil.process_iter(["cmdline", "status"])
            if process.pid != os.getpid()
            and process.info["status"] != psutil.STATUS_ZOMBIE
            and any(argument.startswith(f"{workspace}/") for argument in process.info["cmdline"] or ())
        ]
        if not living:
            return
        assert time.monotonic() < deadline, f"processes that a killed stage left: {living}"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
