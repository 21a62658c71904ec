"""A training that nobody follows: the launcher's owner record no longer changes."""

import subprocess
import sys
import threading
import time

import pytest

from kfp_osft.shared.files.ownership import OWNER_FILE, Pace, owned
from kfp_osft.stages.launch_trainjob.train_attendance import Attendance
from kfp_osft.stages.launch_trainjob.train_text import train_text

#: Minutes of an attendance that a test can wait for.
SHORT = 0.6 / 60


@pytest.fixture
def sign(tmp_path):
    return tmp_path / "checkpoints" / OWNER_FILE


def followed(sign):
    return owned(sign, "TrainJob one", key="ns/one", pace=Pace(0.05, 0.2))


def watched(sign, minutes=SHORT):
    ended = threading.Event()
    attendance = Attendance(str(sign), minutes, ended.set)
    attendance.start()
    return attendance, ended


def test_a_training_goes_on_while_its_launcher_lives_and_is_interrupted_when_it_is_gone(sign, capsys):
    with followed(sign):
        attendance, ended = watched(sign)
        assert not ended.wait(1.5)
    assert ended.wait(5) and attendance.is_over
    assert "nobody has followed this training for 0.01 minutes" in capsys.readouterr().out


def test_a_launcher_that_comes_in_time_is_seen(sign):
    sign.parent.mkdir()
    sign.write_text("first 1")
    _, ended = watched(sign)
    time.sleep(0.3)
    with followed(sign):
        assert not ended.wait(1.2)


def test_without_a_limit_or_a_file_nothing_is_watched(sign):
    assert not watched(sign, 0)[1].wait(0.5)
    assert not watched("", SHORT)[1].wait(0.9)


def test_a_sign_that_is_not_there_yet_is_waited_for_as_long_as_one_that_is(sign):
    _, ended = watched(sign)
    assert ended.wait(5)


def test_an_attempt_after_the_end_ends_at_once_until_a_launcher_comes(sign, capsys):
    sign.parent.mkdir()
    sign.write_text("launcher 7")
    assert watched(sign)[1].wait(5)
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        Attendance(str(sign), 60).start()
    assert ended.value.code == 79 and time.monotonic() - began < 1
    assert "run the pipeline again" in capsys.readouterr().err
    with followed(sign):
        Attendance(str(sign), 60).start()


INTERRUPTED = """
import signal, sys, time
def osft(model_path=None, ckpt_output_dir=None, num_epochs=None, enable_jit_checkpoint=None):
    import pathlib
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    while not asked:
        time.sleep(0.05)
    state = pathlib.Path(ckpt_output_dir, "full_state_checkpoints", "step_3", "training_state.pt")
    state.parent.mkdir(parents=True)
    state.touch()
"""


def test_the_script_saves_its_state_and_ends_with_the_code_that_no_retry_follows(tmp_path, sign):
    import base64
    import json

    image = tmp_path / "image"
    (image / "mini_trainer").mkdir(parents=True)
    (image / "mini_trainer" / "__init__.py").write_text(
        "class TrainingArgs:\n    __dataclass_fields__ = {'on_demand_checkpointing': None}\n"
    )
    (image / "transformers").mkdir()
    (image / "transformers" / "__init__.py").touch()
    (image / "transformers" / "dynamic_module_utils.py").write_text("def resolve_trust_remote_code(*args): ...\n")
    (image / "mini_trainer" / "api_train.py").write_text("class StreamablePopen: ...\n")
    (image / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n")
    (image / "training_hub.py").write_text(INTERRUPTED)
    sign.parent.mkdir()
    sign.write_text("launcher 1")
    arguments = {
        "osft": {"model_path": "/model", "ckpt_output_dir": str(sign.parent), "num_epochs": 1},
        "device": "cuda",
        "resumable": True,
        "attendance": {"file": str(sign), "minutes": SHORT},
    }
    environment = {
        "OSFT_TRAIN_ARGS": base64.b64encode(json.dumps(arguments).encode()).decode(),
        "PYTHONPATH": str(image),
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-c", train_text()]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert first.returncode == 79, first.stderr
    assert (sign.parent / "full_state_checkpoints" / "step_3" / "training_state.pt").exists()
    assert not (sign.parent / "training_complete.json").exists()
    # The cluster starts it again, and nobody has come.
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 79 and "nobody has followed" in again.stderr
