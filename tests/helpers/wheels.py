"""Wheels built for a test."""

import hashlib
import zipfile
from pathlib import Path

from kfp_osft.pipelines.demo.wheels import Wheel


def make_wheel(folder: Path, name: str, files: dict[str, str]) -> Wheel:
    """Builds NAME 1.0 with these files, and returns it as a requirement with its hash."""
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": (f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-on-any-index\n"),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    # RECORD may leave out hashes and sizes; pip download does not install.
    record = "".join(f"{path},,\n" for path in files)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(inside, text)
    return Wheel(f"{name}==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), 0.1)
