"""A program for tests/faults: kills a stage at many of its file operations, or runs several stages at once, and
compares the end with an undisturbed one.

Argument: JSON with stages, folder (empty), model, rows, url (of rows behind HTTP), kills, rounds and seed. One stage is
killed and run again; several run together. Prints JSON as its last line: operations (file operations of an undisturbed
run), runs, wrong (other results), tracebacks, left (unfinished and temporary files at the end).
"""

import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from helpers.artifacts import artifact
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


def _stage(name: str, given: dict[str, Any], number: int) -> Stage:
    model, rows = Path(given["model"]), Path(given["rows"])
    training = {"training_base_model": str(model), "training_max_seq_len": 256}
    # Each run has artifacts of its own.
    artifacts = f"artifacts-{number}"

    def with_training(workspace: Path) -> None:
        if not (workspace / "checkpoints" / "run").exists():
            make_trained_folder(workspace / "checkpoints" / "run", model, ("32.0", "64.0"))

    if name == "resolve_dataset":
        from kfp_osft.stages.resolve_dataset.source import resolve

        def resolve_all(workspace: Path) -> Any:
            upstream = artifact(rows)
            return [
                resolve(given["url"], "train", str(workspace), None, str(rows)),
                resolve("", "train", str(workspace), upstream),
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
        folder = Path(given["folder"])
        config = preprocess_dataset(str(rows), str(folder / "workspace"), training).training_config
        prepared = shutil.copytree(folder / "workspace", folder / f"preprocessed-{number}")
        return Stage(
            lambda workspace: shutil.copytree(prepared, workspace, dirs_exist_ok=True),
            lambda workspace: launch(config, str(workspace), None),
        )
    if name == "collect_metrics":
        from kfp_osft.stages.collect_metrics.collection import collect

        return Stage(
            with_training,
            lambda workspace: collect(
                str(workspace / "checkpoints" / "run"),
                artifact(workspace / artifacts / "metrics"),
                artifact(workspace / artifacts / "steps"),
                artifact(workspace / artifacts / "log"),
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
                str(workspace / "checkpoints" / "run" / "metrics.jsonl"), str(workspace / artifacts / "chart")
            ),
        )
    if name == "export_model":
        from kfp_osft.stages.export_model.export import export_model

        return Stage(
            with_training,
            lambda workspace: export_model(
                str(workspace / "checkpoints" / "run"), str(workspace), artifact(workspace / artifacts / "model")
            ),
        )
    raise ValueError(name)


def main() -> None:
    given = json.loads(sys.argv[1])
    folder = Path(given["folder"])
    workspace, temporary = folder / "workspace", folder / "tmp"
    temporary.mkdir(parents=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    stages = [_stage(name, given, number) for number, name in enumerate(given["stages"])]
    answers = [folder / f"answer-{number}.json" for number in range(len(stages))]

    def fresh() -> None:
        for place in (workspace, temporary):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        for stage in stages:
            stage.prepare(workspace)

    def run(which: Sequence[int], at: int = 0) -> list[int | str | None]:
        """Runs stages at once, each in a child, killed at that operation: the number of each one's operations, a
        traceback, or None if it was killed. What it returned is in its answer."""
        children = {}
        for number in which:
            answers[number].unlink(missing_ok=True)
            child = os.fork()
            if child == 0:
                _run_here(stages[number], workspace, at, answers[number])
            children[number] = child
        ended: list[int | str | None] = []
        for number, child in children.items():
            status = os.waitpid(child, 0)[1]
            if os.WIFSIGNALED(status):
                killed = os.WTERMSIG(status) == signal.SIGKILL
                ended.append(None if killed else f"ended by signal {os.WTERMSIG(status)}")
                continue
            content = json.loads(answers[number].read_text())
            ended.append(content["error"] or content["operations"])
        _end_of_processes(workspace)
        return ended

    def made() -> dict[str, str]:
        returned = {str(number): json.loads(answer.read_text())["returned"] for number, answer in enumerate(answers)}
        return returned | _results(workspace)

    everyone = range(len(stages))
    # Once before, so that caches are as warm as they will be. What the stages import is imported here then: children
    # have it from their start, and a kill hits what a stage does, in less time.
    for _ in range(2):
        fresh()
        ended = [each for number in everyone for each in run([number])]
        assert all(isinstance(each, int) for each in ended), ended
        for answer in answers:
            _import(json.loads(answer.read_text())["imported"])
    expected = made()
    found: dict[str, Any] = {"operations": ended[0], "runs": 0, "wrong": [], "tracebacks": [], "left": []}

    def compare(what: str, ended: list[int | str | None]) -> None:
        errors = [each for each in ended if isinstance(each, str)]
        found["tracebacks"] += [f"{what}: {error}" for error in errors]
        now = {} if errors else made()
        if not errors and now != expected:
            others = [key for key in now.keys() | expected.keys() if now.get(key) != expected.get(key)]
            found["wrong"].append([what, *sorted(others)])
        left = [path for path in workspace.rglob(".*") if path.name.endswith((".unfinished", ".previous"))]
        if left := [*left, *temporary.iterdir()]:
            found["left"].append([what, *map(str, left)])

    if len(stages) > 1:
        for number in range(given["rounds"]):
            fresh()
            found["runs"] += len(stages)
            compare(f"round {number}", run(everyone))
    else:
        operations = int(ended[0])
        count = min(given["kills"], operations)
        for place in sorted(random.Random(given["seed"]).sample(range(1, operations + 1), count)):
            fresh()
            (killed,) = run([0], place)
            found["runs"] += killed is None
            compare(f"killed at operation {place}", run([0]) if not isinstance(killed, str) else [killed])
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

    try:
        signal.alarm(_SECONDS)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            sys.addaudithook(count)
            returned = stage.run(workspace)
            at, operated = 0, operations
        said = {
            "operations": operated,
            "error": None,
            "returned": json.dumps(returned, default=str),
            "imported": [*sys.modules],
        }
    except BaseException:
        said = {"operations": operations, "error": traceback.format_exc()}
    try:
        answer.write_text(json.dumps(said))
    finally:
        os._exit(0)


def _import(modules: Sequence[str]) -> None:
    for name in modules:
        if name not in sys.modules:
            # Some are made by others, and cannot be imported by name.
            with contextlib.suppress(Exception):
                importlib.import_module(name)


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
