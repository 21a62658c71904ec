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
from kfp_osft.stages.package import FOLDER, archive_digest, config_map_name, package_archive, package_digest, packed
from kfp_osft.stages.source_text import without_words


def archived() -> dict[str, str]:
    return json.loads(bz2.decompress(package_archive()))


def test_the_archive_has_the_stages_and_what_they_share_but_no_pipelines_and_no_readme():
    names = archived().keys()
    assert {name.split("/")[1] for name in names} == {"__init__.py", "shared", "stages"}
    assert all(name.endswith(".py") for name in names)
    assert "kfp_osft/stages/preprocess/training_data.py" in names


def test_the_archives_names_stay_below_the_folder_that_they_are_written_to():
    for name in archived():
        assert re.fullmatch(r"kfp_osft(/\w+)+\.py", name), name


def test_the_archive_is_small_enough_for_kubectl_apply_as_a_config_map():
    # kubectl keeps a copy of what it applies in an annotation of at most 262,144 bytes; base64 makes 4 of 3.
    assert len(package_archive()) * 4 / 3 < 200_000


def test_the_config_maps_name_is_one_for_a_volume_too():
    assert re.fullmatch(r"kfp-osft-0-1-0-[0-9a-f]{10}", config_map_name())


def test_the_archives_bytes_depend_on_nothing_but_names_and_sources():
    files = archived()
    assert packed(dict(reversed(files.items()))) == package_archive()
    assert list(files) == sorted(files)


def test_the_digest_tells_apart_which_text_is_a_name_and_which_a_source():
    digests = {digest_of(files) for files in ({}, {"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a": "", "c": "b"})}
    assert len(digests) == 5
    assert digest_of({"a": "1", "b": "2"}) == digest_of({"b": "2", "a": "1"})


def test_the_archive_has_the_digest_that_stages_ask_for(tmp_path):
    file = tmp_path / "archive"
    file.write_bytes(package_archive())
    assert digest_of(package_files(file)) == archive_digest()


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


def test_the_archive_has_nothing_that_only_makes_components():
    assert not [
        name for name in archived() if re.fullmatch(r".*/stages/(.*/)?(component|package|find_package).py", name)
    ]


@pytest.mark.parametrize("stage", stages.__all__)
def test_the_archive_has_every_module_that_a_stages_program_imports(stage):
    files = archived()
    reached: set[str] = set()
    sources = [getattr(stages, stage).component_spec.implementation.container.command[-1]]
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
    for name, source in archived().items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    body = getattr(stages, stage).component_spec.implementation.container.command[-1]
    modules = sorted({name.rpartition(".")[0] for name in _imports(body)})
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + "".join(f"import {name}\n" for name in modules)
    program += "import kfp_osft.stages; print(kfp_osft.stages.__file__, hasattr(kfp_osft.stages, 'preprocess'))\n"
    if stage == "launch_trainjob":
        # It reads modules as files.
        program += "from kfp_osft.stages.launch_trainjob.train_text import train_text; print(len(train_text()))\n"

    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"_KFP_RUNTIME": "true"}, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == f"{tmp_path}/kfp_osft/stages/__init__.py {stage == 'preprocess'}"
    assert others == ([str(len(train_text()))] if stage == "launch_trainjob" else [])


def test_the_archives_modules_are_the_sources_without_docstrings_and_comments():
    sources = package_files(FOLDER)
    for name, source in archived().items():
        assert source == without_words(sources[name])


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
