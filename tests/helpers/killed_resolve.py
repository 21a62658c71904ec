"""Runs resolve in a process of its own, as the stage does, and kills it with SIGKILL during a download."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_PROGRAM = """
import json, os, signal, sys
from kfp_osft.shared.reporting import progress
from kfp_osft.shared.files import downloads
from kfp_osft.shared.s3 import fetching
from kfp_osft.stages.resolve_dataset import hub
uri, pvc, point = json.loads(sys.argv[1])

def kill(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

if isinstance(point, int):
    # After this many bytes.
    class Progress(progress.Progress):
        def add(self, size):
            super().add(size)
            if self._done >= point:
                kill()
    # Small enough for progress to be recorded several times.
    from kfp_osft.stages.resolve_dataset import http
    http._BYTES_BETWEEN_MARKS = 1 << 18
    http._PIECE = 1 << 16
    fetching._PART_SIZE = 1 << 20
    http.Progress = fetching.Progress = Progress
elif point == "publishing":
    downloads.write_manifest = hub.write_manifest = kill
elif point == "renaming":
    # replacing_folder calls os.rename; the manifest is written by then, and the folder is not in place yet.
    rename = os.rename
    os.rename = lambda source, target: (
        kill() if str(source).endswith(".unfinished") and os.path.isdir(source) else rename(source, target))

from kfp_osft.stages.resolve_dataset.source import resolve
print(json.dumps(resolve(uri, "train", pvc, None)))
"""


def resolve_in_a_process(
    uri: str,
    pvc: Path,
    point: int | str | None = None,
    environment: Mapping[str, str] | None = None,
    started: Callable[[int], None] = lambda pid: None,
) -> Path | None:
    """Resolves a dataset in a child process.

    Args:
        point: when it is killed: after this many bytes, "publishing" (all files are complete, the manifest is not
            written), "renaming" (the manifest is, too), or None for never.
        environment: added to this process's.
        started: called with the child's process id, to kill it from outside.

    Returns:
        dataset_path, or None if it was killed.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps([uri, str(pvc), point])],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    started(process.pid)
    output, _ = process.communicate(timeout=120)
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, output
    return Path(json.loads(output.splitlines()[-1])[0])
