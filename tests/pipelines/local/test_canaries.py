"""Secrets in every place where people have them, and a run on this computer: none is in anything it leaves behind."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import TINY_TRAINING
from fakes.http import File, HttpFileServer

pytestmark = pytest.mark.slow

_NAMES = [
    *("AWS_SECRET_ACCESS_KEY", "CLICKHOUSE_PASSWORD", "DB_PASS", "GITHUB_PAT", "HF_TOKEN", "HF_TOKEN_READ"),
    *("KUBERNETES_AUTH_TOKEN", "OPENAI_API_KEY", "PRIVATE_KEY", "SLACK_WEBHOOK_URL", "SSHKEY", "WANDB_KEY"),
]
# Each process of the run but the command itself, whose output is guarded later, begins with telling all it has.
_TELLTALE = """
import os, sys
if not os.environ.pop("SILENT", ""):
    print("Error: all of", dict(os.environ), sys.orig_argv, flush=True)
    print("all of", dict(os.environ), file=sys.stderr, flush=True)
"""


def environment() -> dict[str, str]:
    canaries = {name: f"canary-{name.lower()}-0123456789\n" for name in _NAMES}
    auth = base64.b64encode(b"robot:canary-of-a-registry").decode()
    return canaries | {
        "DATABASE_URL": "postgres://robot:canary-p%40ss/w?rd@db/x",
        "HTTPS_PROXY": "http://robot:canary-of-a-proxy@127.0.0.1:9",
        "OCI_PULL_SECRET_MODEL_DOWNLOAD": json.dumps({"auths": {"quay.io": {"auth": auth}}}),
    }


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in folder.rglob("*"):
        if file.is_file():
            yield str(file), file.read_bytes()


def test_no_secret_is_in_anything_that_a_run_prints_or_leaves(tmp_path: Path, tiny_model: Path, chat_rows: Path):
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(_TELLTALE)
    given = environment()
    output = tmp_path / "output"
    with HttpFileServer() as site:
        site.files["/rows.jsonl"] = File(chat_rows.read_bytes())
        host = site.url.removeprefix("http://")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "kfp_osft.pipelines.cli", "run", "--output-dir", str(output)),
                *("--dataset", f"http://robot:canary-in-a-url@{host}/rows.jsonl?X-Amz-Signature=canary-signature&v=1"),
                *("--base-model", str(tiny_model)),
                *(f"--{name.replace('_', '-')}={value}" for name, value in TINY_TRAINING.items()),
                "--training-num-epochs=1",
            ],
            env={
                **os.environ,
                **given,
                "PYTHONPATH": str(tmp_path / "python"),
                "SILENT": "1",
                "HF_HUB_OFFLINE": "1",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
        )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    auth = json.loads(given["OCI_PULL_SECRET_MODEL_DOWNLOAD"])["auths"]["quay.io"]["auth"]
    left = [*files_below(output), ("stdout", done.stdout), ("stderr", done.stderr)]
    for place, content in left:
        assert b"canary" not in content, f"{place}: {content[max(0, content.find(b'canary') - 300) :][:400]}"
        assert auth.encode() not in content, place
    # The telltale did speak.
    assert b"all of" in (output / "run.log").read_bytes()
    assert any(b"all of" in content for place, content in left if place.endswith("training.log"))
