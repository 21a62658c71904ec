import ast
import bz2
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_osft import stages
from kfp_osft.stages.find_package import digest_of, package_files
from kfp_osft.stages.launch_trainjob.train_text import train_text
from kfp_osft.stages.package import CORE, EVALUATION, FOLDER, Archive, archive_of, package_digest, packed
from kfp_osft.stages.source_text import without_words

ARCHIVES = pytest.mark.parametrize("archive", [CORE, EVALUATION], ids=["core", "evaluation"])


def unpacked(archive: Archive) -> dict[str, str]:
    return json.loads(bz2.decompress(archive.content()))


def test_each_stage_is_in_one_archive():
    assert sorted([*CORE.stages, *EVALUATION.stages]) == sorted(stages.__all__)
    assert [archive_of(name) for name in stages.__all__] == [CORE] * 6 + [EVALUATION]


@ARCHIVES
def test_an_archive_has_its_stages_and_what_they_share_but_no_pipelines_and_no_readme(archive):
    names = unpacked(archive).keys()
    assert {name.split("/")[1] for name in names} == {"__init__.py", "shared", "stages"}
    assert all(name.endswith(".py") for name in names)
    assert {name.split("/")[2] for name in names if re.match("kfp_osft/stages/.*/", name)} == set(archive.stages)


@ARCHIVES
def test_an_archives_names_stay_below_the_folder_that_they_are_written_to(archive):
    for name in unpacked(archive):
        assert re.fullmatch(r"kfp_osft(/\w+)+\.py", name), name


def test_a_config_maps_name_is_one_for_a_volume_too():
    assert re.fullmatch(r"kfp-osft-0-1-0-[0-9a-f]{10}", CORE.config_map)
    assert re.fullmatch(r"kfp-osft-evaluate-0-1-0-[0-9a-f]{10}", EVALUATION.config_map)


@ARCHIVES
def test_an_archives_bytes_depend_on_nothing_but_names_and_sources(archive):
    files = unpacked(archive)
    assert packed(dict(reversed(files.items()))) == archive.content()
    assert list(files) == sorted(files)


def test_the_digest_tells_apart_which_text_is_a_name_and_which_a_source():
    digests = {digest_of(files) for files in ({}, {"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a": "", "c": "b"})}
    assert len(digests) == 5
    assert digest_of({"a": "1", "b": "2"}) == digest_of({"b": "2", "a": "1"})


@ARCHIVES
def test_an_archive_has_the_digest_that_its_stages_ask_for(archive, tmp_path):
    file = tmp_path / "archive"
    file.write_bytes(archive.content())
    assert digest_of(package_files(file)) == archive.digest
    for name in archive.stages:
        assert f'"{archive.digest}"' in program(name)


def test_another_folder_other_modes_and_caches_give_the_same_digest_and_another_byte_another(tmp_path):
    copy = tmp_path / "kfp_osft"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "stages/__pycache__").mkdir()
    (copy / "stages/__pycache__/component.cpython-311.pyc").write_bytes(b"cache")
    (copy / "stages/notes.txt").write_text("not a module")
    for file in copy.rglob("*.py"):
        file.chmod(0o600)
    assert digest_of(package_files(copy)) == package_digest()

    with (copy / "shared/reporting/log.py").open("a") as file:
        file.write("\n")
    assert digest_of(package_files(copy)) != package_digest()


def test_a_folder_without_the_package_holds_no_files(tmp_path: Path):
    assert package_files(tmp_path) == package_files(tmp_path / "nowhere") == {}


@ARCHIVES
def test_an_archive_has_nothing_that_only_makes_components(archive):
    compiling = re.compile(r"kfp_osft/stages/(.*/)?(component|package|find_package)\.py")
    assert not [name for name in unpacked(archive) if compiling.fullmatch(name)]


@pytest.mark.parametrize("stage", stages.__all__)
def test_the_archive_has_every_module_that_a_stages_program_imports(stage):
    files = unpacked(archive_of(stage))
    reached: set[str] = set()
    sources = [program(stage)]
    while sources:
        for name in _imports(sources.pop()):
            file = next((file for file in _files_of(name) if file in files), "")
            assert file, f"{stage} imports {name}"
            # Outside a pod it imports the components.
            if file not in reached and file != "kfp_osft/stages/__init__.py":
                sources.append(files[file])
            reached.add(file)
    assert any(file.startswith(f"kfp_osft/stages/{stage}/") for file in reached)


@pytest.mark.parametrize("stage", stages.__all__)
def test_a_stages_modules_are_imported_from_the_archive_in_a_pod(stage, tmp_path):
    for name, source in unpacked(archive_of(stage)).items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    modules = sorted({name.rpartition(".")[0] for name in _imports(program(stage))})
    lines = [f"import sys; sys.path.insert(0, {str(tmp_path)!r})", *(f"import {name}" for name in modules)]
    lines += ["import kfp_osft.stages; print(kfp_osft.stages.__file__)"]
    if stage == "launch_trainjob":
        # It reads modules as files.
        lines += ["from kfp_osft.stages.launch_trainjob.train_text import train_text; print(len(train_text()))"]

    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=os.environ | {"_KFP_RUNTIME": "true"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == f"{tmp_path}/kfp_osft/stages/__init__.py"
    assert others == ([str(len(train_text()))] if stage == "launch_trainjob" else [])


@ARCHIVES
def test_an_archives_modules_are_the_sources_without_docstrings_and_comments(archive):
    sources = package_files(FOLDER)
    for name, source in unpacked(archive).items():
        assert source == without_words(sources[name])


def program(stage: str) -> str:
    """What runs in a stage's pod."""
    return getattr(stages, stage).component_spec.implementation.container.command[-1]


def _imports(source: str) -> set[str]:
    """What of kfp_osft a module imports anywhere in it, as module.name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "kfp_osft"}


def _files_of(name: str) -> list[str]:
    """Where module.name may be: it is a module, or in one."""
    module, _, _ = name.rpartition(".")
    folders = [part.replace(".", "/") for part in (name, module) if part]
    return [file for folder in folders for file in (f"{folder}.py", f"{folder}/__init__.py")]
