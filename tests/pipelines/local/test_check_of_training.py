"""A real training on a terminal, saved in bfloat16, and what kfp-osft evaluate says of it."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.terminal import Terminal
from kfp_osft.pipelines import cli


@pytest.fixture
def base(tiny_model, tmp_path):
    """The tiny model in bfloat16."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: weight.to(torch.bfloat16) for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    return folder


@pytest.mark.slow
def test_a_training_is_followed_live_summed_up_and_known_to_have_kept_although_it_is_saved_in_bfloat16(
    base, chat_rows, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "output"
    terminal = Terminal(
        [
            str(Path(sys.executable).with_name("kfp-osft")),
            "run",
            "--dataset",
            str(chat_rows),
            "--base-model",
            str(base),
            "--output-dir",
            str(output),
            "--num-epochs",
            "2",
            "--effective-batch-size",
            "8",
            "--max-seq-len",
            "256",
            "--max-tokens-per-gpu",
            "1024",
            "--learning-rate",
            "1e-3",
        ],
        columns=400,
        rows=50,
    )
    terminal.wait(lambda: "tokens/s" in terminal.text, seconds=900)
    assert any(line.startswith("Train with OSFT    running") for line in terminal.lines)
    terminal.wait(seconds=900)

    assert terminal.exit_code == 0 and terminal.cursor_is_shown
    summary = {line.split()[0]: line for line in terminal.lines[-10:]}
    assert list(summary) == [
        "Loss",
        "Trained",
        "Rows",
        "Weights",
        "General",
        "Model",
        "Metrics",
        "Chart",
        "Log",
        "Evaluate",
    ]
    assert summary["Weights"].startswith("Weights  kept: ") and "rounding to bfloat16" in summary["Weights"]
    assert (output / "loss_chart.png").is_file()
    (figures,) = output.glob("checkpoints/*/kept_knowledge.json")
    assert json.loads(figures.read_text())["kept_subspace_leak_max"] < 0.05

    # The line to copy.
    program, *arguments = shlex.split(summary["Evaluate"])[1:]
    monkeypatch.chdir(tmp_path)
    assert program == "kfp-osft" and arguments[0] == "evaluate" and cli.main(arguments) == 0
    assert "Weights: kept: " in capsys.readouterr().out
