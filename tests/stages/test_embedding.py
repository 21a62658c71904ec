import ast
import base64
import bz2
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from kfp_osft import stages
from kfp_osft.stages import embedding
from kfp_osft.stages.embedding import STAGE_IMAGE, imported_modules, stage

SHARED = Path(embedding._SHARED_FOLDER)
STAGES = [getattr(stages, name) for name in stages.__all__]
# The kernel takes 128 KiB in one argument of a program.
ARGUMENT_LIMIT = 100_000


def container(component):
    return component.component_spec.implementation.container


def program(component):
    return container(component).command[-1]


def archive_of(source):
    encoded = re.search(r"b64decode\('([A-Za-z0-9+/=]+)'\)", source)[1]
    return base64.b64decode(encoded)


def files_of(source):
    with tarfile.open(fileobj=io.BytesIO(bz2.decompress(archive_of(source)))) as archive:
        return [(member, archive.extractfile(member).read().decode()) for member in archive.getmembers()]


def members_of(source):
    return [member for member, _ in files_of(source)]


@pytest.fixture
def shared_folder(tmp_path, monkeypatch):
    """A folder in the place of kfp_osft.shared, with the given modules."""

    def make(**modules):
        folder = tmp_path / "shared"
        folder.mkdir()
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)
        monkeypatch.setattr(embedding, "_SHARED_FOLDER", folder)
        return folder

    return make


def test_a_module_is_found_that_is_imported_in_a_function_or_through_another():
    assert imported_modules("def f():\n    from kfp_osft.shared.parameters import ALL_PARAMETERS\n") == [
        "environment", "errors", "key_values", "kubernetes_syntax", "parameters"]


@pytest.mark.parametrize(
    "source",
    [
        "from kfp_osft.shared.one import f",
        "from kfp_osft.shared.one import f as g, h",
        "from kfp_osft.shared import one",
        "from kfp_osft.shared import one as first",
        "import kfp_osft.shared.one",
        "import os, kfp_osft.shared.one as first",
        "if True:\n    from kfp_osft.shared.one import f",
    ],
)
def test_every_way_to_import_a_module_is_found(shared_folder, source):
    shared_folder(one="def f():\n    from kfp_osft.shared import two\n", two="", three="")
    assert imported_modules(source) == ["one", "two"]


@pytest.mark.parametrize(
    "source",
    ["import json", "from pathlib import Path", "import kfp_osft", "import kfp_osft.stages.embedding",
     "from kfp_osft.stages.embedding import stage", "from kfp_osft.shared_things.one import f",
     "text = 'from kfp_osft.shared.one import f'"])
def test_other_imports_are_not_embedded(shared_folder, source):
    shared_folder(one="")
    assert imported_modules(source) == []


def test_modules_that_import_one_another_are_found_once(shared_folder):
    shared_folder(one="from kfp_osft.shared.two import g", two="from kfp_osft.shared.one import f")
    assert imported_modules("from kfp_osft.shared.two import g") == ["one", "two"]


def test_an_import_of_a_module_that_is_not_there_fails_when_the_stage_is_defined(shared_folder):
    shared_folder(one="from kfp_osft.shared.mising import f")
    with pytest.raises(FileNotFoundError, match="mising"):
        imported_modules("from kfp_osft.shared.one import f")


def test_no_module_of_shared_uses_a_relative_import_which_embedding_does_not_follow():
    relative = [(file.name, node.lineno) for file in SHARED.glob("*.py")
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom) and node.level]
    assert relative == []


@pytest.mark.parametrize("component", STAGES, ids=stages.__all__)
def test_a_stage_embeds_what_it_runs_and_nothing_else(component):
    names = [member.name for member in members_of(program(component))]
    modules = {"__init__", *imported_modules(program(component))}
    assert names == [f"kfp_osft/shared/{name}.py" for name in sorted(modules)]
    assert len(names) > 2


@pytest.mark.parametrize("component", STAGES, ids=stages.__all__)
def test_every_module_that_embedded_code_names_is_embedded_too(component):
    # An editable install would find a forgotten one, a cluster would not.
    texts = {member.name: content for member, content in files_of(program(component))}
    named = {name for text in texts.values()
             for name in re.findall(r"^\s*from kfp_osft\.shared(?:\.| import )(\w+)", text, re.MULTILINE)}
    assert named <= {Path(name).stem for name in texts}
    assert named


@pytest.mark.parametrize("component", STAGES, ids=stages.__all__)
def test_no_argument_of_a_stage_nears_the_kernels_limit(component):
    arguments = [*container(component).command, *container(component).args]
    assert max(len(str(argument).encode()) for argument in arguments) < ARGUMENT_LIMIT


@pytest.mark.parametrize("component", STAGES, ids=stages.__all__)
def test_a_stage_runs_in_the_image_that_has_training_hub(component):
    assert container(component).image == STAGE_IMAGE


def test_a_stage_may_have_an_image_of_its_own():
    @stage(base_image="example.org/python:3.12")
    def other() -> str:
        from kfp_osft.shared.log import log

        log("here")
        return "done"

    assert container(other).image == "example.org/python:3.12"
    assert [Path(member.name).stem for member in members_of(program(other))] == [
        "__init__", "duration", "errors", "log", "stage_end", "termination"]


def test_the_archive_tells_nothing_of_the_machine_it_was_made_on():
    for member in members_of(program(stages.preprocess)):
        owner = (member.uid, member.gid, member.uname, member.gname)
        assert (member.mtime, owner, member.mode, member.isfile()) == (0, (0, 0, "", ""), 0o644, True)


def test_another_folder_other_times_modes_and_caches_give_the_same_bytes(tmp_path, monkeypatch):
    modules = imported_modules("from kfp_osft.shared.training_data import preprocess_dataset")
    here = embedding._archive(modules)

    copy = tmp_path / "elsewhere"
    shutil.copytree(SHARED, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "log.cpython-311.pyc").write_bytes(b"cache")
    (copy / "notes.txt").write_text("no module")
    for number, file in enumerate(sorted(copy.glob("*.py"))):
        file.chmod(0o600)
        os.utime(file, (number, number))
    monkeypatch.setattr(embedding, "_SHARED_FOLDER", copy)

    assert embedding._archive(list(reversed(modules))) == here


def test_another_byte_in_a_module_gives_another_archive(tmp_path, monkeypatch):
    here = embedding._archive(["log"])
    copy = tmp_path / "elsewhere"
    shutil.copytree(SHARED, copy)
    with (copy / "log.py").open("a") as file:
        file.write("\n")
    monkeypatch.setattr(embedding, "_SHARED_FOLDER", copy)
    assert embedding._archive(["log"]) != here


def unpacking(component):
    """The part of a stage's program that comes before KFP's own."""
    begin, mark, _ = program(component).partition("_tell_briefly()\n")
    return begin + mark


def run_alone(source, folder):
    """Runs Python with the standard library only: no site-packages, so no kfp_osft and no kfp."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    (folder / "tmp").mkdir()
    environment["TMPDIR"] = str(folder / "tmp")
    return subprocess.run([sys.executable, "-I", "-S", "-c", source], cwd=folder, env=environment,
                          capture_output=True, text=True)


@pytest.mark.parametrize("component", STAGES, ids=stages.__all__)
def test_the_embedded_code_imports_where_kfp_osft_is_not_installed(component, tmp_path):
    names = [Path(member.name).stem for member in members_of(program(component))]
    process = run_alone(f"""
import importlib, importlib.util, json
assert importlib.util.find_spec("kfp_osft") is None
{unpacking(component)}
modules = [importlib.import_module(f"kfp_osft.shared.{{name}}") for name in {names!r} if name != "__init__"]
print(json.dumps([_embedded.name, *(module.__file__ for module in modules)]))
""", tmp_path)
    assert process.returncode == 0, process.stderr
    folder, *files = json.loads(process.stdout)
    assert {Path(file).parent for file in files} == {Path(folder) / "kfp_osft" / "shared"}
    assert not list((tmp_path / "tmp").iterdir()), "the unpacked folder stays behind"


def test_the_embedded_code_comes_before_an_installed_kfp_osft(tmp_path):
    source = f"{unpacking(stages.resolve_dataset)}\nfrom kfp_osft.shared import log\nprint(log.__file__)\n"
    process = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert not Path(process.stdout.strip()).is_relative_to(SHARED)


@pytest.mark.parametrize(
    ("raised", "told"),
    [("InputError('first\\nsecond')", "Error: first\nError: second\n"),
     ("TrainingError('out of memory')", "Training failed: out of memory\n")])
def test_a_stage_tells_our_errors_without_a_traceback(raised, told, tmp_path):
    process = run_alone(f"{unpacking(stages.launch_trainjob)}\n"
                        f"from kfp_osft.shared.errors import InputError, TrainingError\nraise {raised}\n",
                        tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (1, told, "")


def test_a_stage_tells_other_errors_with_their_traceback(tmp_path):
    process = run_alone(f"{unpacking(stages.launch_trainjob)}\nraise ValueError('not ours')", tmp_path)
    assert process.returncode == 1 and "Traceback" in process.stderr and "not ours" in process.stderr
