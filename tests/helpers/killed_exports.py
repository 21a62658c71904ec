"""A program for test_export: exports again and again, killed at each call that changes something on disk.

Arguments: workspace, checkpoint_dir, "one" or "two" (steps in which a folder is replaced). Prints the number of kills
and how many left no final_model. Fails if a final_model is neither the old one nor the new one, or a rerun does not
succeed.
"""

import contextlib
import functools
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from kfp_osft.shared.files import atomic, ownership
from kfp_osft.stages.export_model import export

_CHANGES = ("os.link", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile", "ctypes.dlsym")


def main() -> None:
    workspace, checkpoint_dir, steps = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    # What a killed process holds is free again after a second instead of a minute.
    export.owned = functools.partial(ownership.owned, pace=ownership.Pace(0.1, 1.0))
    if steps == "two":
        atomic._exchange = lambda one, other: False
    # Once here, so that the forks inherit what an export imports.
    _export(workspace, checkpoint_dir)
    new = _content(workspace / "final_model")
    kills = missing = 0
    while True:
        _make_old(workspace / "final_model")
        old = _content(workspace / "final_model")
        if not _is_killed(workspace, checkpoint_dir, kills + 1):
            break
        kills += 1
        if not (workspace / "final_model").exists():
            missing += 1
        elif _content(workspace / "final_model") not in (old, new):
            sys.exit(f"killed at call {kills}: final_model is neither the old one nor the new one")
        _export(workspace, checkpoint_dir)
        if _content(workspace / "final_model") != new or _content(workspace / "artifact") != new:
            sys.exit(f"the run after the kill at call {kills} left another model")
    print(kills, missing)


def _export(workspace: Path, checkpoint_dir: str) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        export.export_model(
            checkpoint_dir, str(workspace), SimpleNamespace(path=str(workspace / "artifact"), uri="", metadata={})
        )


def _is_killed(workspace: Path, checkpoint_dir: str, at: int) -> bool:
    """Exports in a child that is killed at that call; False if there are fewer calls, and the export succeeded."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            calls = 0

            def count(event: str, arguments: tuple) -> None:
                nonlocal calls
                writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")
                if event in _CHANGES or writes:
                    calls += 1
                    if calls == at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            _export(workspace, checkpoint_dir)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the export failed"
    return False


def _content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _make_old(final_model: Path) -> None:
    """Makes a final_model that is a folder, as another tool would."""
    if final_model.is_symlink():
        final_model.unlink()
    shutil.rmtree(final_model, ignore_errors=True)
    final_model.mkdir()
    (final_model / "model.safetensors").write_bytes(b"old")


if __name__ == "__main__":
    main()
