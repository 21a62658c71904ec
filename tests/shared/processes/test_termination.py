"""SIGTERM, as a stage that is ended by Kubernetes sees it."""

import subprocess
import sys

PROGRAM = """
import os, signal
from kfp_osft.shared.reporting.stage import begin_stage
from kfp_osft.shared.processes.termination import terminable
begin_stage()
with terminable() as termination:
    try:
        with termination.held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            print("not left half done")
        print("never")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned up")
"""


def test_sigterm_waits_for_what_is_held_back_and_a_second_one_does_not_disturb_the_cleaning_up():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)

    assert ended.returncode == 143 and not ended.stderr
    *lines, last = ended.stdout.splitlines()
    assert lines == ["not left half done", "cleaned up"]
    assert last.startswith("Stage stopped after ")
