from pathlib import Path

import pytest

from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.training.metrics import read_steps, write_table
from kfp_osft.stages import render_loss_chart
from pytest_kfp_local import KfpLocal


@pytest.mark.slow
def test_the_page_names_the_model_and_the_run(kfp_local: KfpLocal, tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)
    write_table(read_steps(folder), folder / "metrics.jsonl")

    artifact = kfp_local.run(render_loss_chart, metrics_path=str(folder / "metrics.jsonl")).output

    page = Path(artifact.path).read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "OSFT of model" in page
    assert "rows.jsonl, 32 samples · unfreeze rank ratio 0.25<" in page and "12 s<small>whole training" in page
    assert (folder / "loss_chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_table_is_an_error(errors_of, tmp_path: Path):
    missing = tmp_path / "metrics.jsonl"

    assert errors_of(render_loss_chart, metrics_path=str(missing)) == [f"metrics_path={missing}: no such file"]
