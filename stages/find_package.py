"""The head of each stage's program: finds the kfp_osft it was compiled with, and checks it before importing it."""

import bz2
import hashlib
import importlib.util
import json
import os
import pathlib
import sys
import tempfile


def package_files(place):
    # Name -> source of the modules in an archive or in a folder kfp_osft; {} if there is neither.
    if place.is_file():
        return json.loads(bz2.decompress(place.read_bytes()))
    modules = [*place.glob("__init__.py"), *place.glob("shared/**/*.py"), *place.glob("stages/**/*.py")]
    return {file.relative_to(place.parent).as_posix(): file.read_bytes().decode() for file in modules}


def digest_of(files):
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def find_package(version, digest, archive, archive_digest, config_map, manifest):
    global package_copy
    spec = importlib.util.find_spec("kfp_osft")
    installed = spec and spec.origin and pathlib.Path(spec.origin).parent
    others = ""
    # Mounted, installed, or that of the process that runs kfp.local.
    for place in (archive, installed, os.environ.get("KFP_OSFT_FOLDER")):
        files = package_files(pathlib.Path(place)) if place else {}
        # The digest covers the names too: what is written below has the names that were compiled.
        if digest_of(files) in (digest, archive_digest):
            if place != installed:
                # The folder is deleted when the program ends.
                package_copy = tempfile.TemporaryDirectory(prefix="kfp_osft_")
                for name, source in files.items():
                    file = pathlib.Path(package_copy.name, name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(source.encode())
                sys.path.insert(0, package_copy.name)
            return
        others += f"{others and ' and '}{place}" if files else ""
    others = others and f" (another version is in {others})"
    sys.exit(
        f"Error: this stage's code, kfp-osft {version}, is missing{others}; 'oc apply' the {manifest} that 'kfp-osft "
        f"compile' writes (ConfigMap {config_map}), install that version in the image, or compile with --package."
    )
