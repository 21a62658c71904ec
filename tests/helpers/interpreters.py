"""Other Python interpreters of this computer, and environments made with them."""

import shutil
import subprocess
from pathlib import Path


def find_interpreter(version: str) -> str | None:
    """The path of a Python of this minor version, such as "3.12"; None if not installed.

    pyenv's own command of that name fails unless the version is selected, so its folder is looked at too.
    """
    candidates = [
        shutil.which(f"python{version}"),
        *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")),
    ]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return candidate
    return None


def run(*command: object, cwd: Path, env: dict[str, str] | None = None, timeout: float = 900) -> str:
    """Runs a command that must succeed, and returns what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def make_environment(folder: Path, version: str, *requirements: object) -> Path | None:
    """Makes a virtual environment with the requirements, and returns its python; None if the version is missing."""
    interpreter = find_interpreter(version)
    if interpreter is None:
        return None
    run(interpreter, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin/python"
    # Little of it is imported, and Python compiles that as it comes.
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", *requirements, cwd=folder.parent)
    return python
