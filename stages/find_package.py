"""The head of each stage's program: finds the kfp_osft with which it was compiled, and checks it before its import."""

import hashlib
import importlib.util
import os
import pathlib
import sys
import tarfile
import tempfile

MOUNT_PATH = "/opt/kfp-osft"
ARCHIVE = f"{MOUNT_PATH}/kfp_osft.tar.bz2"


def package_files(place):
    """Content by name of what stages need of kfp_osft, in its folder or an archive; {} where there is neither."""
    if place.is_file():
        with tarfile.open(place) as archive:
            return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
    modules = [*place.glob("__init__.py"), *(place / "shared").rglob("*.py"), *(place / "stages").rglob("*.py")]
    return {f"kfp_osft/{file.relative_to(place).as_posix()}": file.read_bytes() for file in modules}


def digest_of(files):
    """sha256 of a listing of the files: a line of name and sha256 each, in the order of their names."""
    lines = [f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_package(version, digest, config_map):
    """Makes kfp_osft importable: from the mounted ConfigMap, as installed, or from kfp.local's parent process."""
    spec = importlib.util.find_spec("kfp_osft")
    installed = pathlib.Path(spec.origin).parent if spec and spec.origin else None
    others = ""
    for place in (ARCHIVE, installed, os.environ.get("KFP_OSFT_FOLDER")):
        files = package_files(pathlib.Path(place)) if place else {}
        if digest_of(files) == digest:
            if place != installed:
                find_package.copy = tempfile.TemporaryDirectory(prefix="kfp_osft_")
                for name, content in files.items():
                    file = pathlib.Path(find_package.copy.name, name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content)
                sys.path.insert(0, find_package.copy.name)
            return
        others += f" (another one is in {place})" if files else ""
    sys.exit(
        f"Error: this stage's code, kfp-osft {version} with digest {digest[:10]}, is missing{others}; 'oc apply' the "
        f"kfp-osft.yaml that 'kfp-osft manifest' writes (ConfigMap {config_map}), install that version in the image, "
        "or compile with --package."
    )
