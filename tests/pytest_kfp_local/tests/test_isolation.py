"""A run touches nothing but its test's folder, and sees nothing of the user's."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pytest_kfp_local

pytest_plugins = ["pytester"]

ENVIRONMENT = """
@component
def environment() -> dict:
    import os
    return {**os.environ, "cwd": os.getcwd(), "files": str(os.listdir())}


"""


def test_no_pip_runs(run_tests):
    run_tests("""
@dsl.component(base_image="python:3.11", packages_to_install=["no-such-package==0.0.1"])
def work() -> int:
    return 1


@dsl.pipeline
def works() -> int:
    work()
    return work().output


@pytest.mark.parametrize("what", [work, works])
def test_it(kfp_local, what):
    assert kfp_local.run(what).output == 1
""")


def test_pip_runs_when_asked_into_the_runs_folder(run_tests, pytester):
    wheel = pytester.path / "only_here-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("only_here.py", "ANSWER = 42\n")
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\nName: only-here\nVersion: 1.0\n",
            "RECORD": "",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }.items():
            archive.writestr(f"only_here-1.0.dist-info/{name}", text)
    run_tests(f"""
@dsl.component(base_image="python:3.11", packages_to_install=[{str(wheel)!r}], install_kfp_package=False)
def use() -> int:
    import only_here
    return only_here.ANSWER


def test_it(kfp_local, tmp_path):
    assert kfp_local.run(use, pip=True).output == 42
    assert (tmp_path / "kfp-local/run-1/packages/only_here.py").is_file()
    assert "No module named 'only_here'" in kfp_local.run(use, check=False).error
""")
    assert importlib.util.find_spec("only_here") is None


def test_the_users_environment_is_hidden_and_the_tests_own_is_not(run_tests, monkeypatch):
    """In a process of its own, as what counts is how pytest was started."""
    users = [
        "KFP_POD_NAME",
        "KUBECONFIG",
        "KUBERNETES_SERVICE_HOST",
        "AWS_PROFILE",
        "HF_TOKEN",
        "XDG_CONFIG_HOME",
        "AWS_REGION",
    ]
    for name in [*users, "PLAIN"]:
        monkeypatch.setenv(name, "user")
    run_tests(
        ENVIRONMENT
        + f"""
@pytest.fixture
def region(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "test")


def test_it(region, kfp_local, monkeypatch, tmp_path):
    monkeypatch.setenv("KFP_ENDPOINT", "test")
    before = dict(os.environ)
    seen = kfp_local.run(environment).output
    assert set(seen) & set({users}) == {{"AWS_REGION"}}
    assert (seen["AWS_REGION"], seen["KFP_ENDPOINT"], seen["PLAIN"]) == ("test", "test", "user")
    for name in ("HOME", "TMPDIR", "cwd"):
        assert Path(seen[name]).is_relative_to(tmp_path)
    assert seen["files"] == "[]"
    assert dict(os.environ) == before

    monkeypatch.setenv("HOME", "/test/home")
    assert kfp_local.run(environment).output["HOME"] == "/test/home"
""",
        own_process=True,
    )


def test_nothing_is_left_outside_the_tests_folder(run_tests, pytester, monkeypatch):
    temporary = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    run_tests("""
@component
def write():
    open("relative", "w").close()


def test_it(kfp_local, tmp_path):
    kfp_local.run(write)
    assert len(list(tmp_path.rglob("relative"))) == 1
""")
    assert not list(temporary.iterdir())
    assert {file.name for file in pytester.path.iterdir()} <= {"temporary", "test_it.py", "__pycache__"}


def test_kfp_local_is_as_the_user_had_initialised_it(run_tests):
    run_tests(
        ENVIRONMENT
        + """
from kfp import local
from kfp.local import config, pipeline_orchestrator, subprocess_task_handler


@pytest.mark.parametrize("initialised", [True, False])
def test_it(kfp_local, tmp_path, initialised, monkeypatch):
    monkeypatch.setattr(config.LocalExecutionConfig, "instance", None)
    if initialised:
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))
    state = lambda: (config.LocalExecutionConfig.instance, pipeline_orchestrator.shutil,
                     subprocess_task_handler.replace_python_executable)
    before = state()
    kfp_local.run(environment)
    assert state() == before
"""
    )


FOUR_TESTS = """
@component
def leave(folder: str):
    import os, tempfile
    for place in (folder, os.environ["HOME"], tempfile.gettempdir()):
        assert not os.path.exists(place + "/mine"), place
        open(place + "/mine", "w").close()


@pytest.mark.parametrize("number", range(4))
def test_it(kfp_local, number):
    kfp_local.run(leave, folder=kfp_local.workspace)
"""


@pytest.mark.parametrize("options", [[], ["-n", "2"]])
def test_tests_do_not_see_each_other(run_tests, options):
    if options:
        pytest.importorskip("xdist")
    run_tests(FOUR_TESTS, *options, own_process=True)


def test_the_plugin_imports_neither_kfp_nor_more_than_it_says():
    """pytest loads it for tests that have nothing to do with it."""
    program = "import sys, pytest_kfp_local; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    folder = str(Path(pytest_kfp_local.__file__).parent.parent)
    loaded = subprocess.check_output([sys.executable, "-c", program], cwd=folder, text=True).split()
    assert "pytest_kfp_local" in loaded
    assert not {"kfp", "google", "kfp_osft"} & set(loaded)
