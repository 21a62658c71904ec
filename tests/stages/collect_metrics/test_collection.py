import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.tiny_model import change_weights
from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.shared.training.figures import figures
from kfp_osft.shared.training.metrics import read_steps, read_table
from kfp_osft.shared.training.validation_losses import validation_losses
from kfp_osft.stages.collect_metrics.collection import collect, with_measured_losses


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    return make_trained_folder(tmp_path / "checkpoints", tiny_model)


class _Metrics:
    def __init__(self) -> None:
        self.metadata: dict[str, float] = {}

    def log_metric(self, metric: str, value: float) -> None:
        self.metadata[metric] = value


def _collect(folder: Path, metrics: _Metrics, **options: int) -> str:
    """Collects, with artifacts beside the folder; returns the table's path."""
    steps, log = (
        SimpleNamespace(path=str(folder.parent / name), uri=str(folder.parent / name)) for name in ("steps", "log")
    )
    return collect(str(folder), metrics, steps, log, **options).metrics_path


def _collected(folder: Path) -> dict[str, float]:
    metrics = _Metrics()
    assert _collect(folder, metrics) == str(folder / "metrics.jsonl")
    return metrics.metadata


def _edit_lines(folder: Path, change) -> None:
    path = folder / "training_metrics_0.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_metric_of_a_training_is_reported_as_a_finite_number(folder: Path):
    metrics = _collected(folder)

    assert metrics == {
        "final_loss": 4.0,
        "first_loss": 5.75,
        "lowest_loss": 4.0,
        "mean_loss_last_tenth": 4.0,
        "final_perplexity": math.exp(4.0),
        "steps": 8,
        "epochs": 2,
        "samples": 64,
        "tokens": 2000,
        "loss_tokens": 800,
        "median_tokens_per_second": 500.0,
        "training_seconds": 4.0,
        "last_learning_rate": 1e-3,
        "median_grad_norm": 1.55,
        "largest_grad_norm": 1.9,
        "unfreeze_rank_ratio": 0.25,
        "effective_batch_size": 8,
        "max_seq_len": 256,
        "peak_learning_rate": 1e-3,
        "seed": 42,
        "rows_kept": 32,
        "rows_dropped": 2,
        "rows_too_long": 1,
        "rows_too_short": 1,
        "wall_clock_seconds": 12.5,
    }
    # KFP's Metrics are JSON numbers.
    json.dumps(metrics, allow_nan=False)
    assert all(type(value) in (int, float) for value in metrics.values())


def test_the_table_has_one_line_per_step_with_the_trainers_field_names(folder: Path):
    _collected(folder)

    assert read_table(folder / "metrics.jsonl") == read_steps(folder)


def test_the_table_says_where_the_training_went_on(folder: Path):
    (folder / "training_resumed.jsonl").write_text('{"after_step": 3}\n')
    _collected(folder)
    table = read_table(folder / "metrics.jsonl")
    assert [step.get("resumed_after") for step in table] == [None, None, None, 3, None, None, None, None]


def test_gpu_memory_is_reported_if_there_was_a_gpu(folder: Path):
    _edit_lines(folder, lambda line: line.update(peak_memory_usage_GB=30.0 + line["step"]))

    assert _collected(folder)["peak_gpu_memory_gb"] == 38.0


def test_the_last_and_the_lowest_validation_loss_are_reported_if_the_trainer_validated(folder: Path):
    _edit_lines(folder, lambda line: line.update(val_loss={5: 2.0, 6: 2.0, 7: 2.0, 8: 2.0}.get(line["step"])))
    (folder / "training_log_node0.log").write_text('"step": 8\nFinal validation loss: 2.5\n')

    metrics = _collected(folder)

    assert (metrics["validation_loss"], metrics["lowest_validation_loss"]) == (2.5, 2.0)


def test_a_seed_that_was_passed_is_reported(folder: Path):
    run = json.loads((folder / "osft_run.json").read_text())
    run["osft"]["seed"] = 7

    assert figures(folder, read_steps(folder), run)["seed"] == 7


def test_without_a_run_file_the_trainers_figures_are_reported(folder: Path):
    (folder / "osft_run.json").unlink()

    metrics = _collected(folder)

    assert metrics["final_loss"] == 4.0 and "seed" not in metrics and "rows_kept" not in metrics


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda step: math.nan if step > 4 else 3.0 - step / 10, "Warning: The loss became NaN or infinite at step 5"),
        (lambda step: math.inf if step == 4 else 3.0 - step / 10, "Warning: The loss was NaN or infinite in 1 of 8"),
        (lambda step: 2.0 + step, "Warning: The loss did not fall"),
    ],
)
def test_a_training_that_went_wrong_is_a_warning_and_its_metrics_stay_finite(folder: Path, capsys, loss, said: str):
    _edit_lines(folder, lambda line: line.update(loss=loss(line["step"])))

    json.dumps(_collected(folder), allow_nan=False)

    assert said in capsys.readouterr().out


def test_a_training_that_broke_the_model_is_a_warning(folder: Path, capsys):
    _edit_lines(folder, lambda line: line.update(loss=3.0 + 2 * line["step"]))

    _collected(folder)

    assert "Warning: The training broke the model: its loss at the end, 19, is above" in capsys.readouterr().out


def test_a_loss_with_the_routers_in_it_gives_no_perplexity(folder: Path):
    for config in folder.glob("hf_format/*/config.json"):
        config.write_text(json.dumps({**json.loads(config.read_text()), "output_router_logits": True}))

    metrics = _collected(folder)

    assert metrics["final_loss"] == 4.0 and "final_perplexity" not in metrics


def test_what_osft_limits_is_a_metric(folder: Path):
    coverage = Coverage(25, 100, 40, ["q_proj"], ["layers.*.q_proj.weight"], ["layers.*.experts.weight"])
    run = json.loads((folder / "osft_run.json").read_text())
    run["about"]["osft_coverage"] = coverage.figures()
    (folder / "osft_run.json").write_text(json.dumps(run))

    metrics = _collected(folder)

    assert (metrics["osft_share"], metrics["osft_limited_parameters"], metrics["unlimited_parameters"]) == (
        0.25,
        25,
        115,
    )


def test_a_training_that_was_nan_from_the_first_step_is_an_error_without_a_table(folder: Path):
    _edit_lines(folder, lambda line: line.update(loss=math.nan))

    with pytest.raises(TrainingError, match="NaN or infinite from the first step on"):
        _collect(folder, _Metrics())
    assert not (folder / "metrics.jsonl").exists()


def test_what_the_model_kept_is_measured_on_request(folder: Path, capsys):
    change_weights(folder / "hf_format" / "samples_64.0")
    metrics = _Metrics()

    _collect(folder, metrics, check_matrices=2)

    # Changed without limits: far into the directions to keep.
    assert metrics.metadata["kept_subspace_matrices"] == 2
    assert metrics.metadata["kept_subspace_leak_max"] > 0.5
    assert "Leaked: up to" in capsys.readouterr().out
    assert not any("loss_before" in name for name in metrics.metadata)


def test_what_cannot_be_measured_is_a_warning_and_the_other_metrics_stay(folder: Path, capsys):
    metrics = _Metrics()
    (folder / "hf_format" / "samples_64.0" / "model.safetensors").unlink()

    _collect(folder, metrics, check_matrices=2)

    assert metrics.metadata["final_loss"] == 4.0 and "kept_subspace_matrices" not in metrics.metadata
    assert "Warning: what the model kept could not be measured: " in capsys.readouterr().out


def test_a_negative_number_of_matrices_is_rejected(folder: Path):
    with pytest.raises(InputError, match="check_matrices=-1 is not allowed; allowed: an integer of at least 0"):
        _collect(folder, _Metrics(), check_matrices=-1)


def test_the_table_and_the_trainings_log_become_artifacts(folder: Path):
    (folder / "training.log").write_text("epoch 1\n")

    _collected(folder)

    assert (folder.parent / "steps").read_text() == (folder / "metrics.jsonl").read_text()
    assert (folder.parent / "log").read_text() == "epoch 1\n"


def test_a_training_without_a_log_says_so_in_its_artifact(folder: Path):
    _collected(folder)

    assert (folder.parent / "log").read_text() == "The training wrote no training.log.\n"


def test_the_table_shows_a_validation_where_it_was_measured_and_nowhere_else():
    steps = [{"total_samples_accumulated": 8.0 * step, "val_loss": 3.0 if step > 1 else None} for step in range(1, 5)]
    steps[1]["val_num_samples"] = 4.0

    table = with_measured_losses(steps, validation_losses(steps, after_the_last=2.5), held_out=20)

    assert [step["val_loss"] for step in table] == [None, 3.0, None, 2.5]
    assert [step.get("val_num_samples") for step in table] == [None, 20, None, 20]
