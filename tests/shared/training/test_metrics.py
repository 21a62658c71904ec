"""shared/training_metrics.py: the trainer's lines as one table, and the figures from it."""

import json
import math
import os
import statistics
from pathlib import Path

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.metrics import read_steps, read_table, summarize, write_table


def line(step: int, loss: float = 2.0, **fields) -> dict:
    """A line as mini_trainer/train.py logs it: 8 steps an epoch, 16 samples a step, no GPU, no validation."""
    return {
        "step": step,
        "epoch": (step - 1) // 8,
        "steps_per_epoch": 8,
        "lr": 1e-4,
        "grad_norm": 1.0,
        "loss": loss,
        "num_samples": 16.0,
        "num_loss_counted_tokens": 100.0,
        "num_total_tokens": 400.0,
        "time_per_batch": 0.5,
        "tokens_per_second": 800.0,
        "total_samples_accumulated": 16.0 * step,
        "total_tokens_accumulated": 100 * step,
        "peak_memory_usage_GB": 0.0,
        "val_loss": None,
        "timestamp": "2026-11-22T19:00:00.000000",
        **fields,
    }


def write(folder: Path, lines: list, node: int = 0, end: str = "\n") -> Path:
    path = folder / f"training_metrics_{node}.jsonl"
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines) + end)
    return path


def losses_by_step(steps: list[dict]) -> dict[int, float]:
    return {step["step"]: step["loss"] for step in steps}


# ---- read_steps


def test_the_steps_come_with_all_fields_that_the_trainer_wrote(tmp_path):
    lines = [line(1, 3.5), line(2, 3.0, val_loss=3.1)]
    write(tmp_path, lines)
    assert read_steps(tmp_path) == lines


def test_steps_that_were_written_in_the_wrong_order_are_sorted(tmp_path):
    # The trainer writes its lines asynchronously.
    write(tmp_path, [line(1, 4.0), line(3, 2.0), line(2, 3.0), line(4, 1.0)])
    assert losses_by_step(read_steps(tmp_path)) == {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}


def test_a_resumed_training_goes_on_where_it_stopped_and_counts_no_step_twice(tmp_path):
    first = [line(step, 10 - step) for step in range(1, 8)]
    resumed = [line(step, 1 - step / 100) for step in range(6, 10)]
    write(tmp_path, first + resumed)
    steps = read_steps(tmp_path)
    assert [step["step"] for step in steps] == list(range(1, 10))
    assert losses_by_step(steps)[5] == 5 and losses_by_step(steps)[6] == 0.94
    assert summarize(steps)["tokens"] == 9 * 400


def test_steps_of_an_abandoned_attempt_behind_the_end_of_the_last_one_do_not_count(tmp_path):
    # Ten steps, then a new start with fewer: steps 5 to 10 made no part of the model.
    write(tmp_path, [line(step, 9.0) for step in range(1, 11)] + [line(step, 2.0) for step in range(1, 5)])
    assert losses_by_step(read_steps(tmp_path)) == {1: 2.0, 2: 2.0, 3: 2.0, 4: 2.0}


def test_steps_of_a_resumed_attempt_in_the_wrong_order_all_count(tmp_path):
    write(tmp_path, [line(1), line(2), line(3), line(4), line(4, 1.0), line(3, 1.0), line(5, 1.0)])
    assert losses_by_step(read_steps(tmp_path)) == {1: 2.0, 2: 2.0, 3: 1.0, 4: 1.0, 5: 1.0}


@pytest.mark.parametrize("cut", ['{"step": 3, "epo', '{"step": 3, "loss": 1.', "{"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_cut_last_line_is_dropped(tmp_path, cut, end):
    write(tmp_path, [line(1), line(2), cut], end=end)
    assert list(losses_by_step(read_steps(tmp_path))) == [1, 2]


def test_a_line_that_was_cut_and_written_on_by_the_next_attempt_gives_the_latter(tmp_path):
    write(tmp_path, [line(1), line(2), '{"step": 3, "epo' + json.dumps(line(3, 1.5)), line(4)])
    assert losses_by_step(read_steps(tmp_path)) == {1: 2.0, 2: 2.0, 3: 1.5, 4: 2.0}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("hello", "not JSON: 'hello'"),
        ('{"step": 2, "lo', "not JSON"),
        ("[1, 2]", "is no JSON object"),
        ('{"loss": 2.0}', "step is None"),
        ('{"step": "2", "loss": 2.0}', "step is '2'"),
        ('{"step": true, "loss": 2.0}', "step is True"),
        ('{"step": -1, "loss": 2.0}', "step is -1"),
        ('{"step": 2}', "loss is None in step 2"),
        ('{"step": 2, "loss": "2.0"}', "loss is '2.0'"),
    ],
)
def test_a_file_that_is_something_else_is_refused_with_its_name_and_line(tmp_path, broken, said):
    path = write(tmp_path, [line(1), broken, line(3)])
    with pytest.raises(InputError) as error:
        read_steps(tmp_path)
    assert str(path) in str(error.value) and "line 2" in str(error.value) and said in str(error.value)


@pytest.mark.parametrize("content", [b"PK\x03\x04 \xff\xfe", b"no JSON at all", b'{"step" 1}'])
def test_a_last_line_that_is_no_beginning_of_a_step_is_refused(tmp_path, content):
    (tmp_path / "training_metrics_0.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="line 1"):
        read_steps(tmp_path)


def test_nan_and_infinity_are_read_as_floats(tmp_path):
    write(tmp_path, [line(1, math.nan, grad_norm=math.inf), line(2, -math.inf), line(3)])
    steps = read_steps(tmp_path)
    assert math.isnan(steps[0]["loss"])
    assert (steps[0]["grad_norm"], steps[1]["loss"]) == (math.inf, -math.inf)


def test_a_loss_without_a_decimal_point_is_a_float(tmp_path):
    write(tmp_path, [line(1, 2)])
    assert isinstance(read_steps(tmp_path)[0]["loss"], float)


def test_empty_lines_are_no_steps(tmp_path):
    write(tmp_path, [line(1), "", "  ", line(2)])
    assert len(read_steps(tmp_path)) == 2


@pytest.mark.parametrize("names", [[], ["training_params.json", "training_metrics_0.jsonl.bak"]])
def test_a_folder_without_the_trainers_file_has_no_steps(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    assert read_steps(tmp_path) == []


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="checkpoint_dir: .*nowhere"):
        read_steps(tmp_path / "nowhere")


def test_figures_of_all_ranks_are_not_summed_over_the_nodes_files(tmp_path):
    for node in (0, 1, 10, 2):
        write(tmp_path, [line(step, 3 - step / 10) for step in range(1, 6)], node)
    figures = summarize(read_steps(tmp_path))
    assert (figures["steps"], figures["tokens"], figures["samples"]) == (5, 2000, 80)


def test_peak_memory_is_that_of_the_fullest_node(tmp_path):
    write(tmp_path, [line(1, peak_memory_usage_GB=30.0), line(2, peak_memory_usage_GB=31.0)])
    write(tmp_path, [line(1, peak_memory_usage_GB=44.0), line(2, peak_memory_usage_GB=29.0)], node=1)
    assert [step["peak_memory_usage_GB"] for step in read_steps(tmp_path)] == [44.0, 31.0]


def test_the_file_of_a_node_that_took_no_part_in_this_training_is_not_mixed_in(tmp_path):
    mine = [line(1, 2.0, peak_memory_usage_GB=30.0), line(2, 1.9, peak_memory_usage_GB=30.0)]
    write(tmp_path, mine)
    # The same loss at one step is chance.
    write(tmp_path, [line(1, 2.0, peak_memory_usage_GB=70.0), line(2, 2.4), line(3, 2.3)], node=1)
    assert read_steps(tmp_path) == mine


def test_steps_that_the_first_node_lost_come_from_another(tmp_path):
    # A thread writes the file, and the end of the process may cut its last lines.
    write(tmp_path, [line(1, 3.0), line(2, math.nan), '{"step": 3, "lo'])
    write(tmp_path, [line(1, 3.0), line(2, math.nan), line(3, 2.0), line(4, 1.5)], node=1)
    write(tmp_path, [line(9, 1.0)], node=2)
    assert list(losses_by_step(read_steps(tmp_path))) == [1, 2, 3, 4]


# ---- write_table, read_table


def test_a_table_comes_back_as_it_was_written(tmp_path):
    steps = [line(1, 3.5, extra={"a": [1, 2.5]}), line(2, 3.0)]
    write_table(steps, tmp_path / "metrics.jsonl")
    assert read_table(tmp_path / "metrics.jsonl") == steps


def test_a_table_is_valid_json_where_the_training_was_not_finite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_table([line(1, math.nan, grad_norm=math.inf, more={"x": [math.nan]})], path)

    def refuse(literal: str):
        raise AssertionError(f"{literal} is no JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row["loss"] is None and row["grad_norm"] is None and row["more"] == {"x": [None]}
    assert math.isnan(read_table(path)[0]["loss"])


def test_no_steps_are_an_empty_table(tmp_path):
    write_table([], tmp_path / "metrics.jsonl")
    assert read_table(tmp_path / "metrics.jsonl") == []


def test_a_table_that_could_not_be_written_leaves_the_earlier_one_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write_table([line(1)], path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table([line(1), line(2)], path)
    assert len(read_table(path)) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("content", ["hello\n", '{"step": 1}\n', '{"step": 1, "loss": 2.0', "[]\n"])
def test_a_table_that_is_something_else_is_refused_with_its_name_and_line(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="metrics.jsonl, line 1"):
        read_table(path)


def test_a_table_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="metrics_path: .*metrics.jsonl"):
        read_table(tmp_path / "metrics.jsonl")


# ---- summarize


def training(count: int = 24) -> list[dict]:
    return [
        line(
            step,
            5 - step / 10,
            lr=1e-4 * (1 - step / count),
            grad_norm=step / 2,
            tokens_per_second=100.0 if step == 1 else 800.0 + step,
        )
        for step in range(1, count + 1)
    ]


def test_every_figure_is_what_its_name_says():
    steps = training()
    steps[9]["loss"] = 1.25
    figures = summarize(steps)
    assert figures == {
        "final_loss": pytest.approx(2.6),
        "first_loss": 4.9,
        "lowest_loss": 1.25,
        "mean_loss_last_tenth": pytest.approx((2.6 + 2.7 + 2.8) / 3),  # 3 of 24
        "final_perplexity": pytest.approx(math.exp(2.6)),
        "steps": 24,
        "epochs": 3,
        "samples": 384,
        "tokens": 9600,
        "loss_tokens": 2400,
        "median_tokens_per_second": statistics.median([100.0, *(800.0 + step for step in range(2, 25))]),
        "training_seconds": pytest.approx(12.0),
        "last_learning_rate": 0.0,
        "median_grad_norm": 6.25,
        "largest_grad_norm": 12.0,
    }
    counts = ("steps", "epochs", "samples", "tokens", "loss_tokens")
    assert all(isinstance(figures[name], int) for name in counts)


def test_peak_memory_is_there_with_a_gpu_only():
    assert "peak_gpu_memory_gb" not in summarize([line(1), line(2)])
    steps = [line(at, peak_memory_usage_GB=used) for at, used in enumerate([10.0, 12.5, 11.0], start=1)]
    assert summarize(steps)["peak_gpu_memory_gb"] == 12.5


def test_validation_loss_is_the_last_one_logged_and_there_only_with_validation():
    assert "validation_loss" not in summarize([line(1), line(2)])
    assert summarize([line(1), line(2, val_loss=2.5), line(3, val_loss=2.25)])["validation_loss"] == 2.25


def test_running_totals_make_good_for_lines_that_were_lost():
    figures = summarize([line(1), line(2), line(5)])
    assert (figures["steps"], figures["samples"], figures["loss_tokens"]) == (5, 80, 500)


def test_without_running_totals_the_steps_are_summed():
    steps = [line(step) for step in range(1, 4)]
    for step in steps:
        del step["total_samples_accumulated"], step["total_tokens_accumulated"]
    assert (summarize(steps)["samples"], summarize(steps)["loss_tokens"]) == (48, 300)


def test_figures_are_finite_or_left_out():
    steps = [line(1, 3.0), line(2, 2.0, grad_norm=math.nan), line(3, math.nan, grad_norm=math.inf, lr=None)]
    figures = summarize(steps)
    assert all(math.isfinite(value) for value in figures.values())
    assert not {"final_loss", "final_perplexity", "mean_loss_last_tenth", "last_learning_rate"} & set(figures)
    assert figures["lowest_loss"] == 2.0 and figures["largest_grad_norm"] == 1.0


def test_a_perplexity_beyond_all_floats_is_left_out():
    assert "final_perplexity" not in summarize([line(1, 2000.0)])


def test_step_and_loss_alone_suffice():
    assert summarize([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]) == {
        "final_loss": 2.0,
        "first_loss": 3.0,
        "lowest_loss": 2.0,
        "mean_loss_last_tenth": 2.0,
        "final_perplexity": pytest.approx(math.exp(2)),
        "steps": 2,
    }


def test_no_steps_have_no_figures():
    assert summarize([]) == {}


@pytest.mark.parametrize("field", ["loss", "epoch", "lr", "num_total_tokens", "total_samples_accumulated", "val_loss"])
def test_a_number_of_hundreds_of_digits_is_no_figure(tmp_path, field):
    write(tmp_path, [line(1) | {field: 10**400}, line(2)])
    steps = read_steps(tmp_path)
    assert [step["step"] for step in steps] == [1, 2]
    assert all(math.isfinite(value) for value in summarize(steps).values())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"step": ' + "9" * 400 + ', "loss": 1.0}', '{"loss": ' + "9" * 5000])
def test_what_no_trainer_writes_is_one_short_sentence(tmp_path, text):
    path = write(tmp_path, [text, line(2)])
    with pytest.raises(InputError) as error:
        read_steps(tmp_path)
    assert str(error.value).startswith(f"{path}, line 1: ") and len(str(error.value)) < 500
