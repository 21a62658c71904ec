import bz2
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.compiled_pipeline import compile_
from kfp_osft import stages
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.component import STAGE_IMAGE, StageSettings, stage_settings
from kfp_osft.stages.mount import ARCHIVE, MOUNT_PATH
from kfp_osft.stages.package import CORE, EVALUATION, packed

STAGES = [getattr(stages, name) for name in stages.__all__]
# Some 400 kB of Workflow for the whole pipeline come from 16 kB a stage.
ARGUMENT_LIMIT = 16_000


def container(component):
    return component.component_spec.implementation.container


def head(component):
    """The part of a stage's program that comes before KFP's own."""
    begin, mark, _ = container(component).command[-1].partition("begin_stage()\n\n")
    return begin + mark


def run_alone(source, folder, **environment):
    """Runs Python with the standard library only: no site-packages, so no kfp_osft and no kfp."""
    environment |= {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KFP_OSFT"))}
    (folder / "tmp").mkdir()
    environment["TMPDIR"] = str(folder / "tmp")
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def mounted(tmp_path):
    """The head of a stage, with the archive at a place of the test's."""
    archive = tmp_path / "mount" / Path(ARCHIVE).name
    archive.parent.mkdir()
    archive.write_bytes(CORE.content())
    source = head(stages.launch_trainjob)
    assert MOUNT_PATH in source
    return source.replace(MOUNT_PATH, str(archive.parent))


@pytest.mark.parametrize("component", STAGES, ids=stages.__all__)
def test_a_stages_command_is_small_because_argo_keeps_it_five_times(component):
    arguments = [*container(component).command, *container(component).args]
    assert sum(len(str(argument).encode()) for argument in arguments) < ARGUMENT_LIMIT


@pytest.mark.parametrize("component", STAGES, ids=stages.__all__)
def test_a_stages_program_has_blank_lines_only_between_its_functions(component):
    program = container(component).command[-1]
    assert not re.search(r"\n\n( |\n)", program) and not re.search(r'^ *""$|^ *#', program, re.MULTILINE)
    assert "  " not in container(component).command[-2]


@pytest.mark.parametrize("component", STAGES, ids=stages.__all__)
def test_a_stage_runs_in_the_image_that_has_training_hub(component):
    assert container(component).image == STAGE_IMAGE


def test_a_stage_in_a_pipeline_mounts_the_code_whether_it_is_there_or_not():
    def callers():
        stages.collect_metrics(checkpoint_dir="/data/checkpoints")

    platform = compile_(callers).platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert platform["exec-collect-metrics"]["configMapAsVolume"] == [
        {
            "configMapName": CORE.config_map,
            "configMapNameParameter": {"runtimeValue": {"constant": CORE.config_map}},
            "mountPath": MOUNT_PATH,
            "optional": True,
        },
        {
            "configMapName": "odh-trusted-ca-bundle",
            "configMapNameParameter": {"runtimeValue": {"constant": "odh-trusted-ca-bundle"}},
            "mountPath": "/etc/pki/tls/custom-certs",
            "optional": True,
        },
    ]


def test_the_optional_stage_mounts_its_own_code_at_the_same_place():
    def callers():
        stages.evaluate_model(pvc_path="/data")

    platform = compile_(callers).platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounts = platform["exec-evaluate-model"]["configMapAsVolume"]
    assert (mounts[0]["configMapName"], mounts[0]["mountPath"]) == (EVALUATION.config_map, MOUNT_PATH)


def test_no_other_config_map_is_mounted_where_the_settings_name_none():
    def callers():
        with stage_settings(StageSettings(certificates="")):
            stages.collect_metrics(checkpoint_dir="/data/checkpoints")

    platform = compile_(callers).platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounts = platform["exec-collect-metrics"]["configMapAsVolume"]
    assert [mount["configMapName"] for mount in mounts] == [CORE.config_map]


def test_an_image_with_a_blank_is_refused():
    with pytest.raises(InputError, match="^the image 'my image:1' is not a container image's name"):
        StageSettings(image="my image:1")


def test_with_a_package_pip_installs_it_and_nothing_is_mounted():
    def callers():
        with stage_settings(StageSettings(package="kfp-osft==0.1.0", certificates="")):
            stages.render_loss_chart(metrics_path="/data/metrics.jsonl")

    compiled = compile_(callers)
    install = compiled.container("render-loss-chart")["command"][2]
    assert "'kfp-osft==0.1.0' '--no-deps'" in install and "'altair==6.3.0'" in install
    assert not compiled.platform


def test_without_pip_and_with_an_image_the_program_is_the_same():
    def callers():
        with stage_settings(StageSettings(image="registry.example/mine:1", pip=False)):
            stages.render_loss_chart(metrics_path="/data/metrics.jsonl")

    found = compile_(callers).container("render-loss-chart")
    assert found["image"] == "registry.example/mine:1"
    assert found["command"] == container(stages.render_loss_chart).command[3:]


def test_settings_hold_for_their_block_alone():
    with pytest.raises(ZeroDivisionError), stage_settings(StageSettings(image="registry.example/mine:1")):
        raise ZeroDivisionError

    def callers():
        stages.collect_metrics(checkpoint_dir="/data/checkpoints")

    assert compile_(callers).container("collect-metrics")["image"] == STAGE_IMAGE


def test_mounted_code_is_imported_where_nothing_is_installed_and_leaves_nothing(mounted, tmp_path):
    done = run_alone(f"{mounted}\nimport kfp_osft; print(kfp_osft.__file__)", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "tmp"))
    assert not list((tmp_path / "tmp").iterdir())


def test_mounted_code_comes_before_what_is_installed(mounted, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", f"{mounted}\nimport kfp_osft; print(kfp_osft.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "kfp_osft_" in done.stdout.splitlines()[0]


def test_installed_code_is_used_in_its_place(tmp_path):
    program = f"{head(stages.launch_trainjob)}\nimport kfp_osft; print(kfp_osft.__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert "kfp_osft_" not in done.stdout.splitlines()[0], done


def test_the_code_of_the_parent_process_is_found_where_kfp_local_makes_an_environment(tmp_path):
    from kfp_osft.stages.package import FOLDER

    done = run_alone(
        f"{head(stages.launch_trainjob)}\nimport kfp_osft; print(kfp_osft.__version__)",
        tmp_path,
        KFP_OSFT_FOLDER=str(FOLDER),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("component", "archive", "file"),
    [
        (stages.launch_trainjob, CORE, "kfp-osft.yaml"),
        (stages.evaluate_model, EVALUATION, "kfp-osft-evaluate.yaml"),
    ],
    ids=["launch_trainjob", "evaluate_model"],
)
def test_code_that_is_not_there_is_one_sentence_with_three_ways_out(component, archive, file, tmp_path):
    done = run_alone(head(component), tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        f"Error: this stage's code, kfp-osft 0.1.0, is missing; 'oc apply' the {file} that 'kfp-osft "
        f"compile' writes (ConfigMap {archive.config_map}), install that version in the image, or compile with "
        "--package.\n"
    )


def test_other_code_than_was_compiled_is_not_imported_and_the_error_says_where_it_is(mounted, tmp_path):
    archive = tmp_path / "mount" / Path(ARCHIVE).name
    other = tmp_path / "other/kfp_osft"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("print('imported')")
    archive.write_bytes(packed({"kfp_osft/__init__.py": "print('imported')"}))

    done = run_alone(mounted, tmp_path, KFP_OSFT_FOLDER=str(other))
    assert done.returncode == 1 and done.stdout == ""
    assert f"(another version is in {archive} and {other})" in done.stderr


def test_an_archive_with_names_outside_its_folder_writes_nothing(mounted, tmp_path):
    archive = tmp_path / "mount" / Path(ARCHIVE).name
    files = json.loads(bz2.decompress(CORE.content()))
    archive.write_bytes(packed(files | {"../../escaped.py": "", str(tmp_path / "absolute.py"): ""}))

    done = run_alone(mounted, tmp_path)
    assert done.returncode == 1
    assert f"is missing (another version is in {archive})" in done.stderr
    assert not [*tmp_path.rglob("*.py")]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("InputError('first\\nsecond')", "Error: first\nError: second\n"),
        ("TrainingError('out of memory')", "Training failed: out of memory\n"),
        ("type('Refused', (InputError,), {})('forbidden')", "Error: forbidden\n"),
    ],
)
def test_a_stage_tells_our_errors_without_a_traceback(raised, told, mounted, tmp_path):
    done = run_alone(
        f"{mounted}\nfrom kfp_osft.shared.reporting.errors import InputError, TrainingError\nraise {raised}\n", tmp_path
    )
    *lines, last = done.stdout.splitlines(keepends=True)
    assert (done.returncode, "".join(lines), done.stderr) == (1, told, "")
    assert last.startswith("Stage failed after ")


def test_a_stage_tells_other_errors_with_their_traceback(mounted, tmp_path):
    done = run_alone(f"{mounted}\nraise ValueError('not ours')", tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and "not ours" in done.stderr
