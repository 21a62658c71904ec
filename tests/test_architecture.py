"""The rooms of the house: who may import whom, and how large a room gets."""

import ast
from pathlib import Path

import pytest

from helpers.places import ROOT

_LAYERS = ("shared", "stages", "pipelines")
_STAGES = {folder.name for folder in (ROOT / "stages").iterdir() if (folder / "component.py").is_file()}
_MOST_FILES = 12


def _modules(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def _imports(file: Path) -> set[str]:
    """Modules of kfp_osft that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "kfp_osft"}


@pytest.mark.parametrize("layer", _LAYERS)
def test_the_arrows_point_from_pipelines_to_stages_to_shared(layer: str):
    above = _LAYERS[_LAYERS.index(layer) + 1 :]
    back = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in _modules(layer)
        for name in _imports(file)
        if name.split(".")[1:2] and name.split(".")[1] in above
    }
    assert back == set()


def test_no_stage_imports_another():
    crossing = {
        f"{file.relative_to(ROOT)} imports {name}"
        for stage in _STAGES
        for file in (ROOT / "stages" / stage).rglob("*.py")
        for name in _imports(file)
        if name.startswith("kfp_osft.stages.") and name.split(".")[2] in _STAGES - {stage}
    }
    assert crossing == set()


def test_a_module_that_one_stage_alone_uses_is_in_that_stages_room():
    users: dict[str, set[str]] = {}
    for layer in _LAYERS:
        for file in _modules(layer):
            parts = file.relative_to(ROOT).with_suffix("").parts
            room = parts[1] if parts[0] == "stages" and parts[1] in _STAGES else ".".join(parts)
            for name in _imports(file):
                users.setdefault(name, set()).add(room)
    lonely = {}
    for file in _modules("shared"):
        if file.name == "__init__.py":
            continue
        module = ".".join(("kfp_osft", *file.relative_to(ROOT).with_suffix("").parts))
        rooms = set().union(
            *(found for name, found in users.items() if name == module or name.startswith(f"{module}."))
        )
        if len(rooms) == 1 and rooms <= _STAGES:
            lonely[module] = rooms
    assert lonely == {}


def test_a_package_of_shared_has_at_most_about_ten_files():
    files_in_the_open = {file.name for file in (ROOT / "shared").glob("*.py")}
    assert files_in_the_open == {"__init__.py"}
    for package in (ROOT / "shared").iterdir():
        if package.is_dir() and package.name != "__pycache__":
            assert len(list(package.glob("*.py"))) <= _MOST_FILES, package


def test_all_modules_are_packages_that_setuptools_finds():
    for layer in _LAYERS:
        for file in _modules(layer):
            assert (file.parent / "__init__.py").is_file(), f"{file.parent} has no __init__.py"
