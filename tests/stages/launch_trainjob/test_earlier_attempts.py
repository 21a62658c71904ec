"""What an earlier attempt at a training left is used as far as it is whole, and what was complete is not lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from conftest import TINY_TRAINING
from helpers.trained_folder import make_trained_folder
from helpers.training_configs import training_config, with_osft
from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.shared.training.metrics import read_steps, resumptions, with_resumptions
from kfp_osft.stages.launch_trainjob import local_engine
from kfp_osft.stages.launch_trainjob.attempts import make_ready, start_anew, was_complete, whole_checkpoints
from kfp_osft.stages.launch_trainjob.local_engine import LocalTraining
from kfp_osft.stages.launch_trainjob.train_resume import RESUMED_FILE, resume_exactly
from kfp_osft.stages.preprocess.training_data import preprocess_dataset


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """As an attempt leaves it that was ended after two epochs: it has no osft_run.json."""
    made = make_trained_folder(tmp_path / "checkpoints" / "run", tiny_model, ("32.0", "64.0"))
    (made / "osft_run.json").unlink()
    return made


def put_state(folder: Path, step: int) -> Path:
    """The files of a state as mini-trainer saves it."""
    state = folder / "full_state_checkpoints" / f"step_{step}"
    (state / "distributed").mkdir(parents=True)
    (state / "distributed" / ".metadata").write_bytes(b"x")
    for name in ("optimizer_rank_0.pt", "rng_state_rank_0.pt", "training_state.pt"):
        with zipfile.ZipFile(state / name, "w") as file:
            file.writestr("data.pkl", "x" * 100)
    return state


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.is_dir() else set()


def test_with_a_saved_state_all_before_it_stays_and_the_log_says_where_it_resumes(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    put_state(folder, 2)
    put_state(folder, 5)

    assert make_ready(folder) is True

    assert names(folder / "full_state_checkpoints") == {"step_5"}
    # Step 5 had seen 40 samples: the later checkpoint was saved by an attempt that saved no state afterwards.
    assert names(folder / "hf_format") == {"samples_32.0"}
    assert len(read_steps(folder)) == 8
    assert "The training resumes after step 5" in capsys.readouterr().out


def test_what_did_not_resume_is_kept_until_the_training_in_its_place_has_made_a_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    put_state(folder, 5)
    before = {name: names(folder / name) for name in (".", "hf_format", "full_state_checkpoints")}
    seen = []

    def fail(*_: object) -> None:
        seen.append(names(folder / "full_state_checkpoints"))
        raise TrainingError("Cannot allocate memory")

    monkeypatch.setattr(local_engine, "train_locally", fail)
    training = LocalTraining(with_osft(training_config(), ckpt_output_dir=str(folder)))
    with pytest.raises(TrainingError):
        training.train(mock.Mock(), folder / "training.log", lambda: make_ready(folder))

    # It tried to resume, and then to start anew.
    assert seen == [{"step_5"}, set()]
    assert "so it starts anew. Cannot allocate memory" in capsys.readouterr().out
    assert make_ready(folder) is True
    # Step 5 had seen 40 samples.
    assert {name: names(folder / name) for name in before} == before | {"hf_format": {"samples_32.0"}}
    assert len(read_steps(folder)) == 8

    start_anew(folder)
    (folder / "training_metrics_0.jsonl").write_text('{"step": 1, "loss": 1.0}\n')

    assert make_ready(folder) is False
    assert names(folder / "interrupted") == {"samples_32.0"} and not (folder / "not_resumed").exists()


@pytest.mark.parametrize("cut", ["optimizer_rank_0.pt", "training_state.pt", "distributed/.metadata"])
def test_a_state_that_is_not_whole_is_not_resumed(folder: Path, cut: str):
    state = put_state(folder, 5)
    file = state / cut
    file.unlink() if cut.startswith("distributed") else os.truncate(file, 50)

    assert make_ready(folder) is False
    assert not state.exists()


def test_without_a_state_it_starts_anew_and_the_furthest_whole_checkpoint_is_set_aside(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    os.truncate(folder / "hf_format" / "samples_64.0" / "model.safetensors", 1000)
    (folder / RESUMED_FILE).write_text('{"after_step": 5}\n')

    assert make_ready(folder) is False
    assert not (folder / RESUMED_FILE).exists()

    assert names(folder / "interrupted") == {"samples_32.0"}
    assert not (folder / "hf_format").exists() and read_steps(folder) == []
    assert (folder / "_internal_data_processing").is_dir()
    told = capsys.readouterr().out
    assert "starts anew" in told and str(folder / "interrupted" / "samples_32.0") in told


@pytest.mark.parametrize(("rank", "notes"), [("0", ['{"after_step": 5}'] * 2), ("1", [])])
def test_a_training_that_goes_on_notes_after_which_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rank: str, notes: list[str]
):
    loader = SimpleNamespace(get_data_loader=None)
    states = SimpleNamespace(FullStateCheckpointer=type("States", (), {"load_optimizer_state": None}))
    for name, module in (("", SimpleNamespace(sampler=loader)), (".full_state_checkpoint", states)):
        monkeypatch.setitem(sys.modules, f"mini_trainer{name}", module)
    monkeypatch.setenv("RANK", rank)
    put_state(folder, 5)

    # The first attempt that resumed ended before its first step.
    for _ in range(2):
        resume_exactly(["--on-demand-checkpointing", f"--output-dir={folder}"])

    noted = folder / RESUMED_FILE
    assert (noted.read_text().splitlines() if noted.exists() else []) == notes
    assert resumptions(with_resumptions(read_steps(folder), folder)) == [5][: len(notes)]


@pytest.mark.parametrize(("first", "second", "kept"), [("32.0", "64.0", "64.0"), ("64.0", "32.0", "64.0")])
def test_of_several_attempts_the_furthest_checkpoint_stays(
    tmp_path: Path, tiny_model: Path, first: str, second: str, kept: str
):
    for samples in (first, second):
        attempt = make_trained_folder(tmp_path / samples, tiny_model, (samples,))
        shutil.copytree(attempt / "hf_format", tmp_path / "run" / "hf_format")
        make_ready(tmp_path / "run")

    assert names(tmp_path / "run" / "interrupted") == {f"samples_{kept}"}


def test_a_training_that_was_complete_before_its_stage_could_say_so_is_complete(folder: Path):
    assert not was_complete(folder)
    (folder / "training_complete.json").write_text("{}")
    assert was_complete(folder)
    # It has said so, and was found damaged since.
    (folder / "osft_run.json").write_text("{}")
    assert not was_complete(folder)


@pytest.mark.parametrize("damage", ["weights cut", "weights gone", "config gone", "config cut", "a shard missing"])
def test_a_checkpoint_counts_only_if_it_is_whole(folder: Path, damage: str):
    checkpoint = folder / "hf_format" / "samples_64.0"
    kind, how = damage.split()[-2:]
    file = checkpoint / ("config.json" if kind == "config" else "model.safetensors")
    if kind == "shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()

    assert [each.folder.name for each in whole_checkpoints(folder)] == ["samples_32.0"]


LAUNCH = """
import sys
from kfp_osft.stages.launch_trainjob.launch import launch
launch(sys.argv[1], sys.argv[2], None)
"""


@pytest.fixture
def launched(tmp_path: Path, tiny_model: Path, chat_rows: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Starts the stage in a process of its own; returns the process and its folder of checkpoints."""
    monkeypatch.setenv("OSFT_LAUNCHER", "local")
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def start(pvc: str) -> tuple[subprocess.Popen, Path]:
        training = {"training_base_model": str(tiny_model), **TINY_TRAINING, "training_checkpoint_at_epoch": True}
        config = preprocess_dataset(str(chat_rows), str(tmp_path / pvc), training).training_config
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, config, str(tmp_path / pvc)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        return process, Path(json.loads(config)["osft"]["ckpt_output_dir"])

    return start


@pytest.mark.slow
def test_a_local_training_interrupted_in_its_second_epoch_resumes_there_and_ends_as_if_it_had_not_been(
    launched: Callable,
):
    process, undisturbed = launched("undisturbed")
    process.communicate()
    assert process.returncode == 0

    process, folder = launched("interrupted")
    metrics = folder / "training_metrics_0.jsonl"
    while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 5:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "Interrupted: the training saves its state" in process.communicate()[0]
    assert process.returncode != 0
    first_epoch = folder / "hf_format" / "samples_32.0" / "model.safetensors"
    written = first_epoch.stat().st_mtime_ns

    process, _ = launched("interrupted")
    told, _ = process.communicate()

    assert process.returncode == 0
    assert "The training resumes after step " in told and "step 1/8" not in told
    assert first_epoch.stat().st_mtime_ns == written
    # The same steps, learning rates and losses, and the same model to the last bit.
    columns = ("step", "epoch", "lr", "loss", "grad_norm", "total_samples_accumulated")
    rows = [[[step[name] for name in columns] for step in read_steps(each)] for each in (undisturbed, folder)]
    assert rows[0] == rows[1] and len(rows[0]) == 8
    (after,) = resumptions(with_resumptions(read_steps(folder), folder))
    assert f"The training resumes after step {after}:" in told
    for samples in ("32.0", "64.0"):
        one, other = (each / "hf_format" / f"samples_{samples}" / "model.safetensors" for each in (undisturbed, folder))
        assert one.read_bytes() == other.read_bytes()
    assert not (folder / "full_state_checkpoints").exists() and not (folder / "interrupted").exists()


@pytest.mark.slow
def test_a_complete_training_is_used_again_only_while_its_checkpoint_and_metrics_are_whole(launched: Callable):
    process, folder = launched("pvc")
    process.communicate()
    steps, model = folder / "training_metrics_0.jsonl", folder / "hf_format" / "samples_64.0" / "model.safetensors"
    before = model.read_bytes()

    process, _ = launched("pvc")
    assert "is complete" in process.communicate()[0]

    shutil.rmtree(folder / "hf_format")
    os.truncate(steps, 500)
    process, _ = launched("pvc")
    told, _ = process.communicate()
    assert process.returncode == 0 and "Training complete" in told
    assert model.read_bytes() == before and len(read_steps(folder)) == 8
