"""A stage's program as a pod of OpenShift runs it: a random user of group 0, HOME=/ and the working directory /."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import kfp_osft
from kfp_osft.stages.component import Stage

USER = 1_000_700_000
#: Another user, as a training pod may have.
OTHER_USER = 1_000_710_000


def as_user(user: int, command: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Runs a command as a user without an entry, of group 0, which reads everything and writes what it may.

    The tests' interpreter and temporary folders are those of another user; hence the right to read.
    """
    capability = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    identity = ["setpriv", f"--reuid={user}", "--regid=0", "--clear-groups", *capability]
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    return subprocess.run(
        [*identity, "env", "-i", f"PATH={path}", *(f"{name}={value}" for name, value in environment.items()), *command],
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


def can_be_another_user() -> bool:
    """Whether the tests may run commands as another user: on Linux, as root."""
    try:
        return as_user(USER, [sys.executable, "-c", "import kfp"]).returncode == 0
    except OSError:
        return False


class Finished(NamedTuple):
    """How a stage ended: exit code, log, output parameters."""

    code: int
    log: str
    outputs: dict[str, Any]


def run_stage(stage: Stage, folder: Path, arguments: dict[str, Any], **environment: str) -> Finished:
    """Runs what KFP's launcher runs in the container.

    Args:
        folder: will hold the artifacts and the outputs; must not exist yet.
        arguments: of the stage, except artifacts.
        environment: added to HOME=/ and what KFP sets.
    """
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    spec = stage.component_spec
    artifacts = {
        name: {
            "artifacts": [
                {"name": name, "type": {"schemaTitle": output.type.partition("@")[0]}, "uri": f"{folder}/{name}"}
            ]
        }
        for name, output in (spec.outputs or {}).items()
        if output.type.startswith("system.")
    }
    names = [name for name in spec.outputs or {} if name not in artifacts]
    executor_input = {
        "inputs": {"parameterValues": arguments},
        "outputs": {
            "parameters": {name: {"outputFile": f"{folder}/{name}.txt"} for name in names},
            "artifacts": artifacts,
            "outputFile": f"{folder}/executor_output.json",
        },
    }
    container = spec.implementation.container
    done = as_user(
        USER,
        # The first three install packages.
        [*container.command[3:], "--executor_input", json.dumps(executor_input), *container.args[2:]],
        **{
            "HOME": "/",
            "KFP_POD_NAME": "a-pod",
            "KFP_OSFT_FOLDER": next(iter(kfp_osft.__path__)),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
    )
    output_file = folder / "executor_output.json"
    outputs = json.loads(output_file.read_text()).get("parameterValues", {}) if output_file.is_file() else {}
    return Finished(done.returncode, done.stdout, outputs)
