"""A disconnected cluster: with model and rows at hand, nothing of ours or of the libraries looks for a network."""

import sys
from pathlib import Path

import pytest

from helpers.no_network import run_without_network, why_no_namespace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_no_namespace()), reason=why_no_namespace() or "it can be made"),
]


def test_no_stage_and_no_training_reaches_out(tmp_path: Path, tiny_model: Path, chat_rows: Path):
    options = ["--base-model", str(tiny_model), "--max-seq-len", "256", "--batch-size", "16", "--lr", "1e-3"]
    options += ["--max-tokens-per-gpu", "1024", "--validation-split", "0.1", "--output-dir", "out"]
    command = [sys.executable, "-m", "kfp_osft.pipelines.cli", "run", str(chat_rows), *options]

    done, attempts = run_without_network(command, tmp_path)

    assert done.returncode == 0, done.stdout
    assert attempts == []
    assert (tmp_path / "out" / "final_model" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "loss_chart.html").is_file()


def test_an_attempt_would_be_seen_and_would_fail(tmp_path: Path):
    program = "import urllib.request; urllib.request.urlopen('https://example.com')"

    done, attempts = run_without_network([sys.executable, "-c", program], tmp_path)

    assert done.returncode == 1
    assert attempts and attempts[0].startswith("socket.getaddrinfo example.com")
