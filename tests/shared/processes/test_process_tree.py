import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import psutil
import pytest

from kfp_osft.shared.processes import process_tree
from kfp_osft.shared.processes.process_tree import ProcessTree

SLEEPS = "import time; print(flush=True); time.sleep(120)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS
# Tells the child's pid once that is up, and stays.
STARTS_CHILD = """
import subprocess, sys, time
command = [sys.executable, "-c", {child!r}]
child = subprocess.Popen(command, start_new_session={session}, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(120)
"""
# A stage: process_tree.py lies in a temporary folder, which is deleted while the stage runs.
STAGE = """
import shutil, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import process_tree
command = [sys.executable, "-c", sys.argv[2]]
root = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
child = root.stdout.readline().strip()
watchdog = process_tree.start_watchdog(root.pid)
shutil.rmtree(sys.argv[1])
print(root.pid, child, watchdog.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def start():
    """Runs Python source as the leader of a group; returns it, and the processes whose pids it prints.

    Ends them all after the test.
    """
    roots, processes = [], []

    def run(source: str, *arguments: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
        root = subprocess.Popen(
            [sys.executable, "-c", source, *arguments],
            start_new_session=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        roots.append(root)
        told = [psutil.Process(int(pid)) for pid in root.stdout.readline().split()]
        processes.extend(told)
        return root, told

    yield run
    for process in [*roots, *processes]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for root in roots:
        root.stdout.close()
        root.wait()


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("session", [False, True])
def test_the_root_and_its_child_are_ended_also_in_a_session_of_its_own(start, session):
    root, (child,) = start(STARTS_CHILD.format(child=SLEEPS, session=session))
    tree = ProcessTree(root.pid)
    assert tree.living() == {psutil.Process(root.pid), child}
    tree.end()
    assert not lives(child) and tree.living() == set()
    assert root.wait(timeout=0) == -15  # the exit code is left for subprocess to collect


def test_a_child_in_a_session_of_its_own_that_was_seen_is_ended_after_its_parent_died(start):
    root, (child,) = start(STARTS_CHILD.format(child=SLEEPS, session=True))
    tree = ProcessTree(root.pid)
    tree.living()
    root.kill()
    root.wait()
    assert tree.living() == {child}
    tree.end()
    assert not lives(child)


def test_a_process_of_the_group_is_ended_also_if_the_root_was_gone_before(start):
    root, (child,) = start(STARTS_CHILD.format(child=SLEEPS, session=False))
    root.kill()
    root.wait()
    tree = ProcessTree(root.pid)
    assert tree.living() == {child}
    tree.end()
    assert not lives(child)


def test_a_process_that_hears_no_sigterm_is_killed_after_the_grace_and_not_before(start):
    root, (child,) = start(STARTS_CHILD.format(child=DEAF, session=True))
    started = time.monotonic()
    ProcessTree(root.pid).end(grace=1)
    assert 1 <= time.monotonic() - started < 8
    assert not lives(child)


def test_a_process_that_was_given_the_number_of_an_ended_root_is_left_alone(start):
    stranger, (child,) = start(STARTS_CHILD.format(child=SLEEPS, session=False))
    # The one whose tree it is had this number before, and started at another time.
    with mock.patch.object(psutil.Process, "_get_ident", lambda process: (process.pid, 0.0)):
        tree = ProcessTree(stranger.pid)
    assert tree.living() == set()
    tree.end()
    assert stranger.poll() is None and lives(child)


def test_the_watchdog_ends_the_tree_once_its_parent_is_killed_without_any_file_of_its_own(start, tmp_path):
    folder = tmp_path / "embedded"
    folder.mkdir()
    shutil.copy(Path(process_tree.__file__), folder)
    stage, (root, child, watchdog) = start(STAGE, str(folder), STARTS_CHILD.format(child=SLEEPS, session=True))
    assert not folder.exists()
    time.sleep(2)
    assert all(map(lives, (root, child, watchdog)))  # as long as the stage lives
    stage.kill()
    stage.wait()
    deadline = time.monotonic() + 20
    while any(map(lives, (root, child, watchdog))):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
