"""Ctrl-C during a local run: it reaches the stage too, which may have something to save."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.waiting import wait_until
from kfp_osft.shared.files.leftovers import mark_of_this_process

# A pipeline as kfp.local runs it, whose stage saves something after Ctrl-C, for as long as the test wants.
RUN = """
import signal, subprocess, sys
from pathlib import Path
# A shell's background processes ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from kfp_osft.pipelines.local import run as module

STAGE = '''
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
try:
    (folder / "started").touch()
    while True:
        time.sleep(1)
except KeyboardInterrupt:
    (folder / "saving").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    (folder / "saved").touch()
'''

def osft_pipeline(**arguments):
    with subprocess.Popen([sys.executable, "-c", STAGE, sys.argv[1]], stdout=subprocess.PIPE) as stage:
        stage.stdout.read()

module._run(Path(sys.argv[1]), {}, False, osft_pipeline)
"""


@pytest.mark.parametrize("interrupts", [1, 2])
def test_the_run_ends_when_its_stage_has_ended_or_at_a_second_interrupt(tmp_path: Path, interrupts: int):
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until((tmp_path / "started").exists)

    # As a terminal does: to all processes of the group.
    os.killpg(process.pid, signal.SIGINT)
    wait_until((tmp_path / "saving").exists)
    assert process.stderr
    while "Interrupted: a training that is under way saves its state now" not in process.stderr.readline():
        assert process.poll() is None
    if interrupts == 2:
        os.killpg(process.pid, signal.SIGINT)
    else:
        assert process.poll() is None
        (tmp_path / "go").touch()
    process.communicate(timeout=60)

    assert process.returncode != 0
    assert (tmp_path / "saved").exists() is (interrupts == 1)


def test_temporary_folders_of_killed_runs_are_removed_and_those_of_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from kfp_osft.pipelines.local.run import _temporary_folder

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours = mark_of_this_process()
    of_dead = ours.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    left, used, others = (tmp_path / name for name in (f"kfp-osft-{of_dead}x", f"kfp-osft-{ours}x", "y"))
    for folder in (left, used, others):
        folder.mkdir()

    with _temporary_folder():
        assert not left.exists() and used.exists() and others.exists()
    assert {*tmp_path.iterdir()} == {used, others}
