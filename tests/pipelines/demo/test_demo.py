"""The README's main command: the demo on the real model and the real data."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import ROOT
from kfp_osft.pipelines.demo.demo import EXAMPLE_TRAINING
from kfp_osft.pipelines.demo.example_model import MODEL_NAME
from kfp_osft.pipelines.demo.wheels import cache_dir
from kfp_osft.shared.parameters.checking import check_parameters


def _demo(output_dir: Path) -> str:
    # The words of the README's command, in the environment of the tests.
    assert "&& .venv/bin/kfp-osft demo\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    program = Path(sys.executable).parent / "kfp-osft"
    done = subprocess.run(
        [program, "demo", "--output-dir", output_dir],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def _before_and_after(text: str, output: str) -> tuple[float, float]:
    found = re.search(rf"perplexity on {text} \(([\d.,]+) before, ([\d.,]+) after\)", output)
    assert found, output[-3000:]
    before, after = (float(figure.replace(",", "")) for figure in found.groups())
    return before, after


@pytest.mark.slow
def test_the_demo_learns_keeps_what_it_knew_and_a_second_run_uses_it_again(tmp_path: Path):
    output = _demo(tmp_path / "demo")

    steps = [json.loads(line) for line in next(tmp_path.glob("demo/checkpoints/*/metrics.jsonl")).open()]
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    pairs = re.findall(r"before  (.*)\n    after   (.*)", output)
    assert len(pairs) == 4
    assert sum(before != after for before, after in pairs[:3]) >= 2
    # Perplexities.
    before, after = _before_and_after("a general text", output)
    assert after < before * 1.3
    before, after = _before_and_after("held-out rows", output)
    assert after < before / 2
    kept = re.search(
        r"Weights  kept: <?([\d.]+)% of the change at most lies in the directions to keep.* looked at \d+ of 210 ",
        output,
    )
    assert kept, output[-3000:]
    assert float(kept[1]) < 1
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "demo/final_model" / name).read_bytes() == (cache_dir() / MODEL_NAME / name).read_bytes()
    for place in (
        "final_model/README.md",
        "final_model/osft_run.json",
        "final_model/model.safetensors",
        "loss_chart.html",
        "loss_chart.png",
        "run.log",
    ):
        assert (tmp_path / "demo" / place).is_file()
    assert f"Model    {tmp_path / 'demo/final_model'}" in output
    assert len((tmp_path / "demo/dataset.jsonl").read_text().splitlines()) >= 100

    again = _demo(tmp_path / "demo")

    assert "step 1/" not in again
    stages = dict(re.findall(r"^\[\d/6\] (.*)\n((?:      .*\n)*)", again, re.MULTILINE))
    assert len(stages) == 6
    for stage in ("Preprocess", "Train with OSFT"):
        assert stages[stage].endswith("      used again\n")


def test_the_examples_training_parameters_are_allowed():
    checked = check_parameters(EXAMPLE_TRAINING)
    assert checked.warnings == ()
    assert checked.osft["learning_rate"] == EXAMPLE_TRAINING["training_learning_rate"]
