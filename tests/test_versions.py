"""Each version of KFP that is supported, on each Python."""

import os
from pathlib import Path

import pytest

from helpers.interpreters import make_environment, run

_TESTS = Path(__file__).parent
_COMPILED = _TESTS.parent / "compiled"
#: The one that compiled/ is made with.
_NEWEST = "2.17.0"


@pytest.fixture(scope="module", params=["3.11", "3.12"])
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with our wheel and all but KFP, which each test installs in its version."""
    folder = tmp_path_factory.mktemp(f"python-{request.param}")
    python = make_environment(
        folder / "venv",
        request.param,
        wheel,
        # The local runner of kfp 2.15 imports docker, whatever it runs.
        "altair==6.3.0",
        "vl-convert-python==1.9.0.post1",
        "pytest==9.2.0",
        "docker",
        # export_model writes the model card with it; transformers brings it.
        "huggingface_hub==2.4.0",
    )
    if python is None:
        pytest.skip(f"no Python {request.param} here: neither python{request.param} on PATH nor one of pyenv")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("kfp_version", [_NEWEST, "2.16.1", "2.15.2"])
def test_it_compiles_to_the_same_yaml_and_runs_what_needs_no_training(python: Path, tmp_path: Path, kfp_version: str):
    packages = [f"{name}=={kfp_version}" for name in ("kfp", "kfp-kubernetes")]
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", *packages, cwd=tmp_path)
    environment = {
        **os.environ,
        "COMPILED": str(tmp_path / "compiled"),
        "PYTHONPATH": os.pathsep.join([str(_TESTS), str(_TESTS / "pytest_kfp_local")]),
    }

    # Not in the repository's folder, whose conftest.py and settings want torch.
    output = run(
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "pytest_kfp_local",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "--rootdir",
        tmp_path,
        "-c",
        os.devnull,
        _TESTS / "helpers/version_probe.py",
        cwd=tmp_path,
        env=environment,
    )

    assert "3 passed" in output
    for committed in _COMPILED.glob("*.yaml"):
        # KFP writes its version into the file, and installs the same one in the stages. That is all that differs.
        expected = (
            committed.read_text()
            .replace(f"kfp=={_NEWEST}", f"kfp=={kfp_version}")
            .replace(f"sdkVersion: kfp-{_NEWEST}", f"sdkVersion: kfp-{kfp_version}")
        )
        same = (tmp_path / "compiled" / committed.name).read_text() == expected
        assert same, f"{committed.name} of kfp {kfp_version} differs in more than the version"
