"""A process with all that it starts, ended whole: by this process, or by a watchdog once this one is gone."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


class ProcessTree:
    """A process that leads a group of its own, that group, and all of their descendants.

    torchrun starts its workers in sessions of their own, so no group holds all of a training. One whose
    parent has died is found only because living() saw it before: call that every second while the root lives.
    """

    def __init__(self, root: int) -> None:
        """root: its pid; it may have ended already."""
        import psutil

        self._group, self._known = root, set()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._known = {psutil.Process(root)}

    def living(self) -> "set[psutil.Process]":
        """Those that live now. A zombie does not: where nobody collects it, it stays for ever."""
        import psutil

        table = psutil.process_iter(["ppid", "status"])
        # None: not ours to look at.
        living = {process for process in table if process.info["status"] not in (psutil.STATUS_ZOMBIE, None)}
        members = living & self._known
        # An unknown process with the root's pid was given it later, and the group is its own.
        if self._group not in {process.pid for process in living - members}:
            members |= {process for process in living if _group_of(process) == self._group}
        found = members
        while found:
            pids = {process.pid for process in found}
            found = {process for process in living - members if process.info["ppid"] in pids}
            members |= found
        self._known = members
        return members

    def end(self, grace: float = 10.0) -> None:
        """SIGTERM to all, SIGKILL to those that live after `grace` seconds; returns when none lives."""
        import psutil

        deadline = time.monotonic() + grace
        asked = set()
        # No psutil.wait_procs: it would take a child's exit code from subprocess, and wait for zombies.
        while members := self.living():
            late = time.monotonic() > deadline
            for process in members if late else members - asked:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill() if late else process.terminate()
            asked |= members
            time.sleep(0.05)


def start_watchdog(root: int) -> subprocess.Popen:
    """A process that ends the tree of `root` as soon as this process is gone, even by SIGKILL."""
    return subprocess.Popen(
        # This file as text: its folder may be a temporary one that goes with this process. -P: the working
        # directory hides no module; -I would hide a psutil that pip has put into the user's folder.
        [sys.executable, "-P", "-c", Path(__file__).read_text(encoding="utf-8"), str(os.getpid()), str(root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Out of the group that a terminal's Ctrl-C reaches.
        start_new_session=True,
    )


def _group_of(process: "psutil.Process") -> int | None:
    with contextlib.suppress(OSError):  # it has just ended
        return os.getpgid(process.pid)


if __name__ == "__main__":
    parent, tree = int(sys.argv[1]), ProcessTree(int(sys.argv[2]))
    while os.getppid() == parent:
        tree.living()
        time.sleep(1)
    tree.end()
