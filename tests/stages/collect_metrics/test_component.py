import json
from pathlib import Path

import kfp_osft
from helpers.trained_folder import make_trained_folder
from kfp_osft.stages import collect_metrics
from pytest_kfp_local import KfpLocal


def test_the_table_and_the_metrics_are_what_the_trainer_logged(kfp_local: KfpLocal, tmp_path: Path, tiny_model: Path):
    folder = make_trained_folder(tmp_path / "checkpoints", tiny_model)

    outputs = kfp_local.run(collect_metrics, checkpoint_dir=str(folder)).outputs

    table = [json.loads(line) for line in Path(outputs["metrics_path"]).read_text().splitlines()]
    assert [row["loss"] for row in table] == [6.0 - step / 4 for step in range(1, 9)]
    metrics = outputs["output_metrics"].metadata
    assert metrics["final_loss"] == 4.0
    assert metrics["steps"] == 8
    assert metrics["unfreeze_rank_ratio"] == 0.25
    assert metrics["rows_kept"] == 32
    assert metrics["rows_too_long"] == 1
    assert metrics["wall_clock_seconds"] == 12.5
    assert metrics["kfp_osft_version"] == outputs["output_steps"].metadata["kfp_osft_version"] == kfp_osft.__version__
    assert "peak_gpu_memory_gb" not in metrics


def test_a_folder_where_nothing_was_trained_fails(kfp_local: KfpLocal, tmp_path: Path):
    result = kfp_local.run(collect_metrics, check=False, checkpoint_dir=str(tmp_path))

    assert result.state == "FAILURE"
    assert "Training failed: " in result.log
