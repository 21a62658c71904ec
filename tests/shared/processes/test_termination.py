"""SIGTERM, as a stage that is ended by Kubernetes sees it."""

import subprocess
import sys

PROGRAM = """
import os, signal
from kfp_osft.shared.reporting.stage import begin_stage
from kfp_osft.shared.processes.termination import terminable
begin_stage()
with terminable():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        print("never")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned up")
"""


def test_sigterm_comes_at_once_and_a_second_one_does_not_disturb_the_cleaning_up():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)

    assert ended.returncode == 143 and not ended.stderr
    *lines, last = ended.stdout.splitlines()
    assert lines == ["cleaned up"]
    assert last.startswith("Stage stopped after ")


BLOCKED = """
import signal, socket, threading, time
from kfp_osft.shared.processes import termination
read, write = socket.socketpair()
def blocked_for_others():
    # Delivered to this thread: the main one stays in its system call.
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
with termination.terminable():
    threading.Timer(0.3, blocked_for_others).start()
    began = time.monotonic()
    try:
        read.recv(1)
    finally:
        print(time.monotonic() - began)
"""


def test_sigterm_ends_a_system_call_that_waits_also_when_another_thread_was_given_it():
    ended = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False, timeout=30)

    assert ended.returncode == 143, ended.stderr
    assert float(ended.stdout) < 2
