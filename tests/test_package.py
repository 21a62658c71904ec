"""The wheel as users install it."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from helpers.interpreters import make_environment, run
from kfp_osft import stages


@pytest.mark.slow
def test_the_wheel_installs_kfp_osft_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names} == {"kfp_osft", wheel.name.split("-py3")[0] + ".dist-info"}
    assert {name.split("/")[1] for name in names if name.startswith("kfp_osft/")} == {
        "__init__.py",
        "py.typed",
        "pipelines",
        "shared",
        "stages",
    }


@pytest.mark.slow
def test_a_plain_install_is_small_and_says_what_running_here_needs(wheel: Path, tmp_path: Path):
    python = make_environment(tmp_path / "venv", "3.11", wheel)
    assert python

    run(
        python,
        "-c",
        "from kfp_osft.pipelines import train_model, osft_pipeline\n"
        "from kfp_osft.stages import (resolve_dataset, preprocess, launch_trainjob, collect_metrics,\n"
        "                             render_loss_chart, export_model)\n",
        cwd=tmp_path,
    )
    run(tmp_path / "venv/bin/kfp-osft", "compile", "--output-dir", "out", cwd=tmp_path)
    assert len(list((tmp_path / "out").glob("*.yaml"))) == 1 + len(stages.__all__) + 2
    installed = run(python, "-m", "pip", "list", "--format", "freeze", cwd=tmp_path).lower()
    for heavy in ("torch", "transformers", "datasets", "altair", "training-hub"):
        assert f"\n{heavy}==" not in f"\n{installed}"
    done = subprocess.run(
        [tmp_path / "venv/bin/kfp-osft", "demo", "--output-dir", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("running on this computer needs kfp-osft[local]")
