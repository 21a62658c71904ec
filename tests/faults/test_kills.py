"""Each stage is killed at some 20 of its file operations and run again: it ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.http import File, HttpFileServer
from helpers.places import TESTS

STAGES = (
    "resolve_dataset",
    "preprocess",
    "launch_trainjob",
    "collect_metrics",
    "render_loss_chart",
    "export_model",
)
KILLS = 20


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_anywhere_gives_the_same_result_when_it_runs_again(
    stage: str, tmp_path: Path, tiny_model: Path, chat_rows: Path, count: Callable
):
    with HttpFileServer() as site:
        site.files["/rows.jsonl"] = File(chat_rows.read_bytes() * 2)
        given = {
            "stage": stage,
            "folder": str(tmp_path / "here"),
            "model": str(tiny_model),
            "rows": str(chat_rows),
            "url": f"{site.url}/rows.jsonl",
            "kills": KILLS,
            "seed": 14,
        }
        ran = subprocess.run(
            [sys.executable, "-m", "helpers.killed_stages", json.dumps(given)],
            cwd=TESTS,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    faults = {name: found[name] for name in ("wrong", "tracebacks", "left")}
    count("kills", kills=found["kills"], **{name: len(each) for name, each in faults.items()})
    assert faults == {"wrong": [], "tracebacks": [], "left": []}
    assert found["kills"] == min(KILLS, found["operations"])
