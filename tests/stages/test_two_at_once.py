"""Two runs at once in one workspace: real processes, with a stand-in for the trainer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers.places import TESTS
from helpers.tiny_model import write_chat_rows
from helpers.trained_folder import make_trained_folder
from helpers.training_configs import with_data
from kfp_osft.shared.files.manifests import file_digest
from kfp_osft.shared.files.ownership import OWNER_FILE, owned

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS), "OSFT_LAUNCHER": "local"}


def start(program: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen) -> str:
    """What it printed."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def line_with(process: subprocess.Popen, text: str) -> str:
    """The first line that it prints with the text."""
    assert process.stdout
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"it did not print: {text}")


def wait_for(file: Path) -> None:
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until, f"{file} does not appear"
        time.sleep(0.05)


EXPORT = """
import contextlib, os, shutil, sys
from pathlib import Path
from types import SimpleNamespace
from kfp_osft.stages.export_model.export import export_model
workspace, name = Path(sys.argv[1]), sys.argv[2]
own = workspace / "checkpoints" / name
for number in range(3):
    folder = workspace / f"artifact-{name}-{sys.argv[3]}-{number}"
    artifact = SimpleNamespace(path=str(folder), uri=sys.argv[4] + str(folder), metadata={})
    export_model(str(own), str(workspace), artifact)
    # As KFP's launcher, which follows links, some time later.
    shutil.copytree(folder, folder.with_name(f"uploaded-{folder.name}"))
"""


@pytest.mark.parametrize("uri", ["", "s3://"], ids=["kept here", "uploaded"])
def test_each_artifact_holds_the_model_of_its_own_run(tmp_path: Path, tiny_model: Path, uri: str):
    runs = {}
    for name in ("one", "two"):
        folder = make_trained_folder(tmp_path / "checkpoints" / name, tiny_model)
        weights = folder / "hf_format" / "samples_64.0" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        # Another number in the last tensor.
        content[-4] ^= len(runs) + 1
        weights.write_bytes(content)
        runs[name] = file_digest(weights)

    # Of the second, two at once.
    for process in [start(EXPORT, tmp_path, *run, uri) for run in (("one", 1), ("two", 1), ("two", 2))]:
        ended(process)

    uploaded = list(tmp_path.glob("uploaded-*"))
    assert len(uploaded) == 9
    for folder in uploaded:
        assert file_digest(folder / "model.safetensors") == runs[folder.name.split("-")[2]]
        assert json.loads((folder / "osft_run.json").read_text())["checkpoint"]["name"] == "samples_64.0"
    assert (tmp_path / "final_model").resolve().name in runs
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_an_export_waits_for_a_training_into_its_checkpoints(tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path / "checkpoints" / "one", tiny_model)
    with owned(folder / OWNER_FILE, "launch_trainjob"):
        export = start(EXPORT, tmp_path, "one", 1, "")
        told = line_with(export, "waiting for it")
        assert told.startswith(f"{folder} belongs to launch_trainjob, process {os.getpid()} on ")
        assert not (tmp_path / "models").exists()
    ended(export)
    assert (tmp_path / "final_model" / "model.safetensors").is_file()


PREPROCESS = """
import json, sys
from pathlib import Path
from kfp_osft.stages.launch_trainjob.launch import _check_data
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.preprocess.training_data import preprocess_dataset
rows, workspace, model, folder = sys.argv[1:]
for number in range(2):
    result = preprocess_dataset(
        rows, workspace,
        {"training_base_model": model, "training_max_seq_len": 256, "training_data_output_dir": folder},
    )
    config = TrainingConfig.from_json(result.training_config)
    _check_data(config)
    samples = Path(config.osft["data_path"]).read_text().splitlines()
    print(f"SAMPLES {len(samples)} {result.num_samples}")
"""


@pytest.mark.slow
def test_two_runs_with_one_data_folder_each_train_on_their_own_rows(tmp_path: Path, tiny_model: Path):
    processes = []
    for rows in (16, 24):
        file = write_chat_rows(tmp_path / f"{rows}.jsonl", rows)
        processes.append((rows, start(PREPROCESS, file, tmp_path / "pvc", tiny_model, tmp_path / "tokens")))
    for rows, process in processes:
        told = [line for line in ended(process).splitlines() if line.startswith("SAMPLES")]
        assert told == [f"SAMPLES {rows} {rows}"] * 2


# Writes what a trainer writes, and notes when it begins and ends; a second argument makes it wait for a file.
TRAINER = """
import base64, json, os, time
from pathlib import Path
osft = json.loads(base64.b64decode(os.environ["OSFT_TRAIN_ARGS"]))["osft"]
folder = Path(osft["ckpt_output_dir"])
with (folder.parent / "history").open("a") as history:
    history.write(f"begins {os.getpid()}\\n")
checkpoint = folder / "hf_format" / "samples_8.0"
checkpoint.mkdir(parents=True)
(checkpoint / "model.safetensors").touch()
while not (folder.parent / "go").exists():
    # Gone, if another training cleared it away.
    (checkpoint / "model.safetensors").stat()
    time.sleep(0.05)
with (folder.parent / "history").open("a") as history:
    history.write(f"ends {os.getpid()}\\n")
"""
LAUNCH = """
import sys
from pathlib import Path
from kfp_osft.stages.launch_trainjob import local_engine
from kfp_osft.stages.launch_trainjob.launch import launch
local_engine.train_text = lambda: Path(sys.argv[1]).read_text()
print(launch(Path(sys.argv[2]).read_text(), sys.argv[3], None))
"""


@pytest.fixture
def launch(tmp_path: Path):
    """Starts a process that launches the same training, locally."""
    pvc = tmp_path / "pvc"
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "config.json").write_text(with_data(pvc).to_json())
    processes = []

    def run() -> subprocess.Popen:
        processes.append(start(LAUNCH, tmp_path / "trainer.py", tmp_path / "config.json", pvc))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_a_second_run_of_the_same_training_waits_for_the_first_and_takes_its_result(tmp_path: Path, launch):
    checkpoints = tmp_path / "pvc" / "checkpoints"
    first = launch()
    wait_for(checkpoints / "history")
    second = launch()
    told = line_with(second, "waiting for it")
    assert told.startswith(f"{checkpoints}/0123456789ab belongs to launch_trainjob, process {first.pid} on ")
    (checkpoints / "go").touch()

    outputs = [ended(process) for process in (first, second)]

    assert "Training complete after" in outputs[0] and "used again" in outputs[1]
    history = (checkpoints / "history").read_text().split()
    assert history[0::2] == ["begins", "ends"]
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1]


def test_where_the_first_is_killed_the_second_trains_once_nothing_of_the_first_is_left(tmp_path: Path, launch):
    checkpoints = tmp_path / "pvc" / "checkpoints"
    first = launch()
    wait_for(checkpoints / "history")
    second = launch()
    line_with(second, "waiting for it")
    first.send_signal(signal.SIGKILL)
    while len((checkpoints / "history").read_text().splitlines()) < 2:
        assert second.poll() is None
        time.sleep(0.05)
    trainer = int((checkpoints / "history").read_text().split()[1])
    assert not psutil.pid_exists(trainer) or psutil.Process(trainer).status() == psutil.STATUS_ZOMBIE
    (checkpoints / "go").touch()

    assert "Training complete after" in ended(second)
    assert not list(checkpoints.glob("*/.owner.json*"))
