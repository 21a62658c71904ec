"""Makes a KFP component of a stage's function, with the part of kfp_osft.shared that it imports inside it.

KFP's own embedded_artifact_path packs a whole folder, __pycache__ too, and its gzip differs from machine to machine
(time, owner, order, zlib). Here the archive holds the imported modules only, in a fixed order without time or owner,
and is compressed with bzip2, whose one implementation gives the same bytes everywhere.
"""

import ast
import base64
import bz2
import copy
import inspect
import io
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl.python_component import PythonComponent

import kfp_osft.shared

#: The image that the present OSFT component runs in: training-hub with a CPU torch, Python 3.12.
STAGE_IMAGE = "quay.io/opendatahub/odh-th06-cpu-torch291-py312:odh-3.4"

_SHARED = "kfp_osft.shared"
_SHARED_FOLDER = Path(kfp_osft.shared.__file__).parent

_UNPACK = """
import base64 as _base64, io as _io, sys as _sys, tarfile as _tarfile, tempfile as _tempfile
_embedded = _tempfile.TemporaryDirectory(prefix='kfp_osft_')
with _tarfile.open(fileobj=_io.BytesIO(_base64.b64decode('{archive}')), mode='r:bz2') as _archive:
    _archive.extractall(_embedded.name, filter='data')
_sys.path.insert(0, _embedded.name)
from kfp_osft.shared.errors import tell_briefly as _tell_briefly
from kfp_osft.shared.stage_end import tell_end as _tell_end
_tell_briefly()
_tell_end()
"""


def stage(**options: Any) -> Callable[[Callable], PythonComponent]:
    """Like kfp.dsl.component, for a function that imports from kfp_osft.shared in its body.

    Args:
        options: of kfp.dsl.component; base_image is STAGE_IMAGE unless given.
    """

    def decorate(function: Callable) -> PythonComponent:
        component = dsl.component(function, **{"base_image": STAGE_IMAGE, **options})
        # KFP puts the program's source last in the command (component_factory).
        command = component.component_spec.implementation.container.command
        source = textwrap.dedent(inspect.getsource(function))
        archive = base64.b64encode(_archive(imported_modules(_UNPACK + source))).decode("ascii")
        command[-1] = _UNPACK.format(archive=archive) + command[-1]
        return component

    return decorate


def variant(component: PythonComponent, image: str, pip: bool) -> PythonComponent:
    """A copy of a stage's component with another image, and, for a cluster without a package index, without pip.

    Args:
        component: of a stage; is not changed.
        image: the container image.
        pip: False takes the installation of KFP and of packages out of the command; the image must hold them.
    """
    changed = copy.deepcopy(component)
    container = changed.component_spec.implementation.container
    container.image = image
    if not pip:
        # KFP puts ["sh", "-c", <pip install ... && "$0" "$@">] before the command proper (component_factory).
        start = next(index for index, part in enumerate(container.command) if part == "-ec") - 1
        container.command = container.command[start:]
    return changed


def imported_modules(source: str) -> list[str]:
    """Names of the modules of kfp_osft.shared that the source imports, directly or through one another, sorted."""
    found: set[str] = set()
    waiting = [source]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop())):
            for name in _shared_modules(node):
                if name not in found:
                    found.add(name)
                    waiting.append(_module_file(name).read_text(encoding="utf-8"))
    return sorted(found)


def _shared_modules(node: ast.AST) -> list[str]:
    """Modules of kfp_osft.shared that one import names, in any of Python's absolute forms."""
    if isinstance(node, ast.ImportFrom) and node.module == _SHARED:
        return [alias.name for alias in node.names]
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else (
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
    return [name.removeprefix(f"{_SHARED}.") for name in names if name.startswith(f"{_SHARED}.")]


def _module_file(name: str) -> Path:
    return _SHARED_FOLDER / f"{name}.py"


def _archive(modules: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted({"__init__", *modules}):
            content = _module_file(name).read_bytes()
            member = tarfile.TarInfo(f"kfp_osft/shared/{name}.py")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return bz2.compress(buffer.getvalue())
