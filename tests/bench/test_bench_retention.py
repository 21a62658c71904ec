"""The figures of the retention benchmark, which itself takes hours."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench import bench_retention
from bench.bench_retention import Learnt, relative_change, retained
from bench.retention_tasks import TASKS


def test_average_and_backward_transfer_are_those_of_the_tasks_in_their_order():
    first, second = TASKS[1].name, TASKS[0].name
    models = [
        Learnt({first: 0.8}, {first: 0.5}, 3.0, 0.01),
        Learnt({first: 0.4, second: 0.6}, {first: 0.9, second: 0.7}, 3.5, 0.02),
    ]

    found = retained(models, (1, 0))

    assert found.average == pytest.approx(0.5) and found.when_learnt == pytest.approx(0.7)
    assert found.backward_transfer == pytest.approx(-0.2) and found.loss_backward_transfer == pytest.approx(0.2)
    assert found.loss == pytest.approx(0.8)
    assert (found.general_loss, found.change) == (3.5, 0.02)


def test_the_change_of_the_weights_is_that_of_the_projections_alone(tmp_path: Path):
    base, model = tmp_path / "base", tmp_path / "model"
    for folder, weight in ((base, 3.0), (model, 3.3)):
        folder.mkdir()
        tensors = {"layers.0.q_proj.weight": torch.full((2, 2), weight), "norm.weight": torch.full((2,), 10 * weight)}
        save_file(tensors, folder / "model.safetensors")

    assert relative_change(base, model) == pytest.approx(0.1)


def test_an_arm_that_there_is_not_is_refused_before_anything_is_trained(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_retention.py", str(tmp_path / "new"), "--rate", "LoRA=1e-4"])
    with pytest.raises(SystemExit, match="2"):
        bench_retention.main()
    assert "'LoRA=1e-4': no such arm; allowed: OSFT 0.25, OSFT 0.1, plain" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
