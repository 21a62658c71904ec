"""How long a training would take, from a few measured pieces of it: passes of the model, and decompositions."""

import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.local.small_model import is_quickly_loaded
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.training.config import TrainingConfig

_TIMEOUT = 300.0
_MEASURED_TOKENS = 512
_LONG = 3.0
_CHILD = "from kfp_osft.pipelines.local.measured_speed import print_measured; print_measured()"


def measured_time(training_config: str, workspace: Path) -> str:
    """A sentence on the time of the whole training; empty where its weights are not here, or are too large.

    Args:
        training_config: what preprocess returned.
        workspace: where nothing is written; the child process runs in it.
    """
    config = TrainingConfig.from_json(training_config)
    folder = Path(config.osft["model_path"])
    if not is_quickly_loaded(folder):
        return ""
    arguments = {
        "model": str(folder),
        "data": config.osft["data_path"],
        "patterns": config.osft["target_patterns"],
        "trust": bool(config.osft.get("trust_remote_code")),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, json.dumps(arguments)],
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        measured = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return ""
    tokens = config.osft["num_epochs"] * config.about["tokens"]
    steps = tokens / measured["tokens_per_second"]
    return (
        f"Time: about {duration_text(measured['decomposing'] + steps)} on this computer, from a few measured pieces: "
        f"{duration_text(measured['decomposing'])} to decompose the weights, {duration_text(steps)} for the steps at "
        f"{measured['tokens_per_second']:,.0f} tokens a second; loading and saving come on top"
    )


def print_measured() -> None:
    """What the other process runs: measures for its first argument, and prints the figures as its last line."""
    print("\n" + json.dumps(_measured(**json.loads(sys.argv[1]))))


def _measured(model: str, data: str, patterns: list[str], trust: bool) -> dict[str, float]:
    from kfp_osft.shared.model.torchvision import hide_broken_torchvision

    hide_broken_torchvision()
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=trust)
    loaded.to(device)
    return {"tokens_per_second": _speed(loaded, data), "decomposing": _decomposing(loaded, patterns)}


def _speed(model: Any, data: str) -> float:
    """Tokens a second of forward and backward; the first pass is slow and counts only where it takes long."""
    import torch

    model.gradient_checkpointing_enable()
    model.train()
    ids: list[int] = []
    with open(data, encoding="ascii") as file:
        for line in islice(file, _MEASURED_TOKENS):
            ids += json.loads(line)["input_ids"]
    speed = 0.0
    for tokens in (_MEASURED_TOKENS // 4, _MEASURED_TOKENS):
        batch = torch.tensor([ids[:tokens]], device=model.device)
        began = time.monotonic()
        model(input_ids=batch, labels=batch).loss.backward()
        took = time.monotonic() - began
        speed = batch.numel() / took
        if took > _LONG:
            break
    return speed


def _decomposing(model: Any, patterns: list[str]) -> float:
    """Seconds of the decompositions of all matrices that OSFT limits, from one of them: they take time in proportion
    to rows x columns x the smaller of both."""
    import torch

    matrices = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and any(pattern in name for pattern in patterns)
    ]
    costs = [min(matrix.shape) * matrix.numel() for matrix in matrices]
    cost, measured = sorted(zip(costs, range(len(costs)), strict=True))[len(costs) // 2]
    began = time.monotonic()
    torch.linalg.svd(matrices[measured].detach(), full_matrices=False)
    return (time.monotonic() - began) * sum(costs) / cost
