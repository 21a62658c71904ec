"""The wheel as users install it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent


def _run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked files: setuptools leaves a build folder in the source."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    _run("git", "clone", "--quiet", _ROOT, source, cwd=folder)
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_installs_kfp_osft_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names} == {"kfp_osft", wheel.name.split("-py3")[0] + ".dist-info"}
    assert {name.split("/")[1] for name in names if name.startswith("kfp_osft/")} == {"pipelines", "shared", "stages"}


@pytest.mark.slow
@pytest.mark.parametrize("interpreter", ["python3.11", "python3.12"])
def test_a_plain_install_embeds_and_compiles_without_torch(wheel: Path, tmp_path: Path, interpreter: str):
    if subprocess.run(["sh", "-c", f"{interpreter} --version"], capture_output=True).returncode:
        pytest.skip(f"no {interpreter} here")
    _run(interpreter, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    _run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)

    _run(tmp_path / "venv/bin/kfp-osft", "compile", "--output-dir", "out", cwd=tmp_path)

    assert len(list((tmp_path / "out").glob("*.yaml"))) == 7
    _run(python, "-c", "from kfp_osft.pipelines import train_model, osft_pipeline\n"
                       "from kfp_osft.stages import (resolve_dataset, preprocess, launch_trainjob, collect_metrics,\n"
                       "                             render_loss_chart, export_model)\n", cwd=tmp_path)
    installed = _run(python, "-m", "pip", "list", "--format", "freeze", cwd=tmp_path).lower()
    for heavy in ("torch", "transformers", "datasets", "altair", "training-hub"):
        assert f"\n{heavy}==" not in f"\n{installed}"
    # The command that needs more says what to install.
    done = subprocess.run([tmp_path / "venv/bin/kfp-osft", "demo", "--output-dir", "out"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("running on this computer needs kfp-osft[local]")
