"""Each stage is killed at up to 12 of its file operations and run again, and stages run at once in one workspace: in
the end all is as if each had run alone and undisturbed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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
PAIRS = (
    *((stage, stage) for stage in STAGES if stage != "render_loss_chart"),
    ("resolve_dataset", "preprocess"),
    ("preprocess", "launch_trainjob"),
    ("collect_metrics", "export_model"),
    ("render_loss_chart", "export_model"),
)
KILLS, ROUNDS = 12, 2
# Of the stages that take seconds: one looks at the model's structure, the other starts a JavaScript engine.
FEWER_KILLS = {"preprocess": 8, "render_loss_chart": 6}


@pytest.fixture
def disturbed(tmp_path: Path, tiny_model: Path, chat_rows: Path, count: Callable) -> Iterator[Callable]:
    """Runs the program killed_stages for these stages, counts its figures, and returns them."""
    with HttpFileServer() as site:
        site.files["/rows.jsonl"] = File(chat_rows.read_bytes() * 2)

        def run(kind: str, *stages: str) -> dict:
            given = {
                "stages": stages,
                "folder": str(tmp_path / "here"),
                "model": str(tiny_model),
                "rows": str(chat_rows),
                "url": f"{site.url}/rows.jsonl",
                "kills": FEWER_KILLS.get(stages[0], KILLS),
                "rounds": ROUNDS,
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
            faults = {name: len(found[name]) for name in ("wrong", "tracebacks", "left")}
            count(kind, runs=found["runs"], **faults)
            return found

        yield run


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_anywhere_gives_the_same_result_when_it_runs_again(stage: str, disturbed: Callable):
    found = disturbed("kills", stage)

    assert (found["wrong"], found["tracebacks"], found["left"]) == ([], [], [])
    assert found["runs"] == min(FEWER_KILLS.get(stage, KILLS), found["operations"])


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_stages_that_run_at_once_give_what_each_gives_alone(pair: tuple[str, str], disturbed: Callable):
    found = disturbed("at once", *pair)

    assert (found["wrong"], found["tracebacks"], found["left"]) == ([], [], [])
