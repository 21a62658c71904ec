"""A stage in a pod of KFP's backend: its real command with the driver's input, and its outputs as the launcher reads
them.

Differences from a real pod: the folders at the root (/kfp-workspace, /s3, the ConfigMap's mount) are below a folder of
the test, pip installs nothing, and the random user may read all files, as Python may be installed in a home folder.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers.places import SHARED_DATA
from kfp_osft.shared.files.run_workspace import MOUNT_PATH as WORKSPACE
from kfp_osft.stages.component import Stage
from kfp_osft.stages.find_package import digest_of
from kfp_osft.stages.mount import ARCHIVE, MOUNT_PATH
from kfp_osft.stages.package import CORE, packed

CASES = SHARED_DATA / "cases" / "backend"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the recorded inputs of the real driver are not available")

#: As OpenShift assigns them to a project, without an entry in /etc/passwd.
RANDOM_USER = 1000770000
_OUTPUTS = "/tmp/kfp/outputs"
_EXECUTOR = "python3 -m kfp.dsl.executor_main"
_RUN_EXECUTOR = (
    "import runpy, kfp.dsl.types.artifact_types as types; types._S3_LOCAL_MOUNT_PREFIX = '{s3}/'; "
    "runpy.run_module('kfp.dsl.executor_main', run_name='__main__', alter_sys=True)"
)


@dataclass
class Ran:
    """The result of a stage.

    Attributes:
        code: exit code.
        log: what it printed.
        parameters: by name, from the outputFile.
        artifacts: output artifacts by name, as described by the driver and completed by the stage.
        uploads: what the launcher would upload, by artifact: content by path in the artifact; "" for a single file.
    """

    code: int
    log: str
    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: dict[str, dict[str, bytes]] = field(default_factory=dict)


class BackendPod:
    """The pods of one run of osft_pipeline, one after another, with a common workspace.

    Attributes:
        workspace: stands for /kfp-workspace.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.workspace = folder / WORKSPACE.name
        self._s3 = folder / "s3"
        for name in (WORKSPACE.name, "s3", "tmp", "outputs", "mount"):
            (folder / name).mkdir(parents=True)
        # The stage must look for the workspace where it is here.
        files = {name: source.replace(f'"{WORKSPACE}"', f'"{self.workspace}"') for name, source in CORE.files.items()}
        self._digest = digest_of(files)
        (folder / "mount" / Path(ARCHIVE).name).write_bytes(packed(files))

    def case(self, name: str) -> dict[str, Any]:
        """The recorded input of a stage from the real driver, with this pod's paths."""
        text = (CASES / f"{name}.json").read_text(encoding="utf-8")
        places = {str(WORKSPACE): str(self.workspace), _OUTPUTS: str(self._folder / "outputs")}
        for there, here in places.items():
            text = text.replace(there, here)
        case = json.loads(text)
        output_file = case["outputs"]["outputFile"]
        case["outputs"]["outputFile"] = str(self._s3) + output_file.removeprefix("/s3")
        return case

    def path_of(self, uri: str) -> Path:
        """The local path of an artifact."""
        return self._s3 / uri.removeprefix("s3://")

    def run(self, stage: Stage, case: dict[str, Any], **environment: str) -> Ran:
        """Runs the stage's command as a random user without passwd entry and with a read-only home folder."""
        self._add_outputs(stage, case)
        container = stage.component_spec.implementation.container
        # The beginning of the command runs pip.
        command = container.command[3:] if "pip install" in container.command[2] else container.command
        executor = _RUN_EXECUTOR.format(s3=self._s3)
        changed = {
            MOUNT_PATH: str(self._folder / "mount"),
            CORE.digest: self._digest,
            _EXECUTOR: f'python3 -c "{executor}"',
        }
        arguments = [*command, *(str(part).replace("{{$}}", json.dumps(case)) for part in container.args)]
        for there, here in changed.items():
            arguments = [part.replace(there, here) for part in arguments]
        done = subprocess.run(
            [*self._as_random_user(), *arguments],
            cwd="/",
            env={**self._environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        return self._read(done.returncode, done.stdout, case)

    def _add_outputs(self, stage: Stage, case: dict[str, Any]) -> None:
        """Describes outputs that the stage got since the recording as the driver would."""
        outputs = case["outputs"]
        artifacts = outputs.setdefault("artifacts", {})
        root = artifacts["executor-logs"]["artifacts"][0]["uri"].rpartition("/")[0]
        for name, spec in (stage.component_spec.outputs or {}).items():
            if "@" in spec.type:
                title, _, version = spec.type.partition("@")
                kind = {"schemaTitle": title, "schemaVersion": version}
                artifact = {"name": name, "type": kind, "uri": f"{root}/{name}"}
                artifacts.setdefault(name, {"artifacts": [artifact]})
            else:
                place = {"outputFile": str(self._folder / "outputs" / name)}
                outputs.setdefault("parameters", {}).setdefault(name, place)

    def _as_random_user(self) -> list[str]:
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            return []
        for place in (self._folder, *self._folder.rglob("*")):
            os.chown(place, RANDOM_USER, 0, follow_symlinks=False)
        only_reading = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
        return ["setpriv", f"--reuid={RANDOM_USER}", "--regid=0", "--clear-groups", *only_reading]

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": "/",
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "TMPDIR": str(self._folder / "tmp"),
            "KFP_POD_NAME": "osft-thin-l69pf-system-container-impl-1",
            "KFP_POD_UID": "4a9c2b6e-0000-0000-0000-000000000000",
            "HF_HUB_OFFLINE": "1",
            # The dynamic loader does not search a folder that the user may not enter.
            "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or "",
        }

    def _read(self, code: int, log: str, case: dict[str, Any]) -> Ran:
        output_file = Path(case["outputs"]["outputFile"])
        if code or not output_file.is_file():
            return Ran(code, log)
        written = json.loads(output_file.read_text(encoding="utf-8"))
        ran = Ran(code, log, written.get("parameterValues", {}))
        for name, described in case["outputs"]["artifacts"].items():
            ran.artifacts[name] = (
                described["artifacts"][0] | (written.get("artifacts", {}).get(name, {}).get("artifacts", [{}])[0])
            )
            ran.uploads[name] = _upload(self.path_of(ran.artifacts[name]["uri"]))
        return ran


def _upload(place: Path) -> dict[str, bytes]:
    """The files at a path, following symbolic links as the launcher does; none if the path does not exist."""
    if place.is_file():
        return {"": place.read_bytes()}
    return {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()}
