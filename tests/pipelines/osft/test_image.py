import re
import subprocess
import sys

import pytest

from kfp_osft import stages
from kfp_osft.pipelines.cli import main
from kfp_osft.pipelines.osft.image import containerfile
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.component import STAGE_IMAGE


def installed_by(component) -> set[str]:
    """What the command of a stage's container installs, options aside."""
    return set(re.findall(r"'([^'-][^']*)'", component.component_spec.implementation.container.command[2]))


def test_it_is_built_upon_the_stages_image_and_installs_what_each_stage_does():
    text = containerfile()
    assert f"FROM {STAGE_IMAGE}\n" in text
    for name in stages.__all__:
        # typing-extensions is for a Python that the image does not have.
        for package in installed_by(getattr(stages, name)):
            assert package.startswith("typing-extensions") or f"'{package}'" in text


def test_its_requirements_are_what_pip_takes():
    lines = containerfile().replace("\\\n", " ").splitlines()
    (run,) = [line for line in lines if line.startswith("RUN ")]
    for requirement in re.findall(r"'([^']+)'", run):
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from packaging.requirements import Requirement as R; R(sys.argv[1])",
                requirement,
            ],
            check=True,
        )


def test_another_image_to_build_upon_is_named_and_checked(capsys: pytest.CaptureFixture[str]):
    assert main(["image", "--from", "registry.example/base:1"]) == 0
    assert "FROM registry.example/base:1\n" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"^the image 'a b' is not"):
        containerfile("a b")
