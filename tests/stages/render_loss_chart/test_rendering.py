"""The chart of a run, from the files of its training."""

import json
from pathlib import Path

import pytest

from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.training.metrics import read_steps, write_table
from kfp_osft.stages.render_loss_chart.rendering import render


@pytest.mark.parametrize("routers", [False, True])
def test_a_model_whose_routers_add_to_the_loss_has_no_perplexity(tmp_path: Path, tiny_model: Path, routers: bool):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)
    config = folder / "hf_format/samples_64.0/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "output_router_logits": routers}))
    write_table(read_steps(folder), folder / "metrics.jsonl")

    render(str(folder / "metrics.jsonl"), str(tmp_path / "chart.html"))

    assert ("perplexity" in (tmp_path / "chart.html").read_text()) is not routers
