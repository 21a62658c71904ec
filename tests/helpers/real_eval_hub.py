"""A real Eval Hub (PyPI eval-hub-server) on this computer, with TLS, whose jobs are processes of this computer."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

# Where its local runtime puts each job's folder; it has no setting for that.
_JOBS = Path("/tmp/evalhub-jobs")


class RealEvalHub:
    """Attributes: url; ca, the PEM file of the authority that signed its certificate."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url, self.ca, self.folder = f"https://127.0.0.1:{port}", folder / "ca.pem", folder

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, the newest last."""
        listed = self._get("/api/v1/evaluations/jobs?limit=100")["items"]
        return sorted(listed, key=lambda job: job["resource"]["created_at"])

    def _get(self, path: str) -> dict[str, Any]:
        import ssl

        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(f"{self.url}{path}", context=context, timeout=5) as response:
            return json.load(response)

    def log_of(self, job: Mapping[str, Any]) -> str:
        """What the processes of a job wrote."""
        return "".join(file.read_text() for file in (_JOBS / job["resource"]["id"]).rglob("jobrun.log"))


@contextmanager
def real_eval_hub(folder: Path, providers: Mapping[str, Mapping[str, Any]]) -> Iterator[RealEvalHub]:
    """Runs it while the block does.

    Args:
        folder: for its files.
        providers: by id, each as the files in its config/providers are.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    hub = RealEvalHub(folder, port)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(hub.ca))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    config = {
        "service": {
            "port": port,
            "host": "127.0.0.1",
            "tls_cert_file": str(folder / "certificate.pem"),
            "tls_key_file": str(folder / "key.pem"),
            "termination_file": str(folder / "termination-log"),
        },
        "database": {"driver": "sqlite", "url": f"file:{folder}/hub.db"},
    }
    # JSON is YAML.
    # Of its own: the server watches it.
    settings = folder / "config"
    (settings / "providers").mkdir(parents=True)
    (settings / "config.yaml").write_text(json.dumps(config))
    for name, provider in providers.items():
        (settings / f"providers/{name}.yaml").write_text(json.dumps({"id": name, "name": name, **provider}))
    program = Path(sysconfig.get_path("scripts")) / "eval-hub"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "-local", "-configdir", settings],
            stdout=log,
            stderr=log,
            # For the jobs, which report to the server: in local mode the SDK has no setting of its own for that.
            env={**os.environ, "SSL_CERT_FILE": str(hub.ca)},
        )
    try:
        _wait(hub, process)
        yield hub
        for job in hub.jobs():
            shutil.rmtree(_JOBS / job["resource"]["id"], ignore_errors=True)
    finally:
        process.kill()
        process.wait()


def lm_eval_provider(tasks: Path, benchmarks: Mapping[str, str]) -> dict[str, Any]:
    """The provider that runs lm_eval_adapter.py.

    Args:
        tasks: folder of tasks.
        benchmarks: names of tasks in it, and the metric that is each one's primary score.
    """
    adapter = Path(__file__).with_name("lm_eval_adapter.py")
    environment = {"TASKS": str(tasks), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {
        "title": "LM Evaluation Harness",
        "description": "on this computer",
        "runtime": {
            "local": {
                "command": f"exec '{sys.executable}' '{adapter}'",
                "env": [{"name": name, "value": value} for name, value in environment.items()],
            }
        },
        "benchmarks": [
            {"id": name, "name": name, "metrics": [metric], "primary_score": {"metric": metric}}
            for name, metric in benchmarks.items()
        ],
    }


def _wait(hub: RealEvalHub, process: subprocess.Popen) -> None:
    for _ in range(150):
        assert process.poll() is None, (hub.folder / "log").read_text()
        try:
            hub._get("/api/v1/health")
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the Eval Hub did not start")
