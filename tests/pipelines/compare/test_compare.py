"""Runs beside each other: where they are found, what differs, what came out, and the page."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

from helpers.browser import find_chromium, look
from helpers.synthetic_training import training
from kfp_osft.pipelines import cli
from kfp_osft.pipelines.compare.page import write_comparison
from kfp_osft.pipelines.compare.runs import ComparedRun, find_runs
from kfp_osft.pipelines.compare.table import as_text, comparison, differences, losses_compare, results
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.metrics import read_table, write_table


def add_run(workspace: Path, rate: float, batch: int = 16, dataset: str = "rows.jsonl", published: bool = True) -> Path:
    """A run as a workspace keeps it: its folder of checkpoints, and, if it is published, its model."""
    name = f"{rate:g}".replace(".", "")
    checkpoint_dir = workspace / "checkpoints" / name
    checkpoint_dir.mkdir(parents=True)
    steps = [
        step | {"num_samples": batch, "total_samples_accumulated": batch * step["step"]}
        for step in training(1920 // batch, val_loss={60: 2.0 + rate}, val_num_samples={60: 20.0})
    ]
    write_table(steps, checkpoint_dir / "metrics.jsonl")
    record = {
        "fingerprint": f"{workspace}{rate}",
        "trainjob_name": "local-x",
        "seconds": 100.0 + 1000 * rate,
        "osft": {
            "model_path": "/m/SmolLM2",
            "learning_rate": rate,
            "effective_batch_size": batch,
            "unfreeze_rank_ratio": 0.25,
        },
        "trainjob": {},
        "data": {},
        "env": {},
        "about": {"base_model": "SmolLM2", "dataset": f"/d/{dataset}", "rows": 660, "samples": 640},
    }
    (checkpoint_dir / "osft_run.json").write_text(json.dumps(record))
    (checkpoint_dir / "kept_knowledge.json").write_text(
        json.dumps({"general_text_loss_before": 3.3, "general_text_loss_after": 3.3 + 10 * rate})
    )
    if published:
        model = workspace / "models" / name
        model.mkdir(parents=True)
        content = {
            "format": 2,
            "fingerprint": record["fingerprint"],
            "osft": record["osft"],
            "about": {},
            "base_model": {"name": "SmolLM2"},
            "dataset": {"name": dataset, "fingerprint": "0123456789abcdef"},
            "parameters": {"training_learning_rate": rate, "training_effective_batch_size": batch},
            "library_versions": {"torch": "2.13.0"},
            "evaluation": {"passed": True, "metrics": {"held_out_exact_match_after": 0.5 + rate}},
            "metrics": {"mean_loss_last_tenth": 2 - rate, "wall_clock_seconds": 100.0 + 1000 * rate},
        }
        (model / "osft_run.json").write_text(json.dumps(content))
        (workspace / "final_model").unlink(missing_ok=True)
        (workspace / "final_model").symlink_to(model)
    return checkpoint_dir


@pytest.fixture
def sweep(tmp_path) -> Path:
    """The folders of a ParallelFor over the learning rate."""
    folder = tmp_path / "sweep"
    for rate in (1e-5, 1e-4):
        add_run(folder / f"lr-{rate:g}", rate)
    return folder


def cells(rows, heading: str) -> tuple[str, ...]:
    return next(row.cells for row in rows if row.heading == heading)


def test_the_runs_of_a_sweep_are_found_and_named_by_their_folders(sweep):
    runs = find_runs([sweep])
    assert [run.name for run in runs] == ["lr-0.0001", "lr-1e-05"]
    assert all(len(run.steps) == 120 for run in runs)


@pytest.mark.parametrize(
    "place",
    [
        "lr-1e-05",
        "lr-1e-05/final_model",
        "lr-1e-05/models/1e-05",
        "lr-1e-05/models/1e-05/osft_run.json",
        "lr-1e-05/checkpoints/1e-05",
        "lr-1e-05/checkpoints/1e-05/metrics.jsonl",
    ],
)
def test_a_run_is_its_output_folder_its_model_its_checkpoints_or_its_table(sweep, place):
    first, second = find_runs([sweep / "lr-0.0001", sweep / place])
    assert first.name != second.name and len(first.steps) == len(second.steps) == 120
    if not place.endswith("metrics.jsonl"):
        assert second.made_from["learning_rate"] == "1e-05" and second.metrics["wall_clock_seconds"] == 100.01


def test_the_artifacts_of_a_parallel_for_are_runs_too(sweep, tmp_path):
    for at, folder in enumerate(sorted(sweep.iterdir())):
        task = tmp_path / "local_outputs" / "sweep-2026" / f"for-loop-2-iteration-{at}"
        shutil.copytree(folder / "final_model", task / "export-model" / "output_model")
        (task / "collect-metrics").mkdir()
        shutil.copy(next(folder.glob("checkpoints/*/metrics.jsonl")), task / "collect-metrics" / "output_steps")
    runs = find_runs([tmp_path / "local_outputs"])
    assert [run.name for run in runs] == ["for-loop-2-iteration-0", "for-loop-2-iteration-1"]
    assert [len(run.steps) for run in runs] == [120, 120]


def test_the_same_run_named_twice_counts_once(sweep):
    assert len(find_runs([sweep, sweep / "lr-1e-05/final_model"])) == 2


def test_several_runs_of_one_workspace_are_told_apart(tmp_path):
    for rate in (1e-5, 1e-4):
        add_run(tmp_path / "out", rate, published=False)
    assert [run.name for run in find_runs([tmp_path / "out"])] == ["00001", "1e-05"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("sweep/lr-1e-05", "a single run; at least two are needed to compare"),
        ("empty", "no run found; allowed: an output folder, a model's folder"),
    ],
)
def test_what_is_no_run_is_an_error(sweep, tmp_path, place, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=re.escape(message)):
        find_runs([tmp_path / place])


def test_only_what_differs_is_in_the_table(sweep):
    rows = differences(find_runs([sweep]))
    assert [(row.heading, row.cells) for row in rows] == [("learning_rate", ("0.0001", "1e-05"))]


def test_what_is_not_known_is_no_difference():
    runs = [
        ComparedRun("a", {"seed": "1"}, {"torch": "2.9.1"}, {}, []),
        ComparedRun("b", {"seed": "1"}, {}, {}, []),
        ComparedRun("c", {}, {}, {}, []),
    ]
    assert differences(runs) == [] and losses_compare(runs)


def test_the_figures_have_their_best_marked(sweep):
    runs = find_runs([folder / "checkpoints" for folder in sorted(sweep.iterdir())])
    rows = results(runs)
    assert cells(rows, "time") == ("1 min 40 s", "1 min 40 s")
    assert cells(rows, "perplexity on a general text") == ("0%", "0%")
    assert cells(rows, "rows trained on") == ("640", "640")
    runs[0] = runs[0]._replace(metrics={**runs[0].metrics, "general_text_loss_after": 3.55})
    assert cells(results(runs), "perplexity on a general text") == ("+28%", "0%")
    best = {row.heading: row.best for row in results(runs)}
    assert best["perplexity on a general text"] == {1} and best["steps"] == frozenset()


def test_a_run_that_was_resumed_says_so(sweep):
    assert "resumed after step" not in [row.heading for row in results(find_runs([sweep]))]
    table = next(sweep.glob("*/checkpoints/*/metrics.jsonl"))
    steps = [{**step, **({"resumed_after": 3} if step["step"] == 4 else {})} for step in read_table(table)]
    write_table(steps, table)
    assert sorted(cells(results(find_runs([sweep])), "resumed after step")) == ["3", "no"]


def test_what_an_evaluation_measured_is_in_the_table(sweep):
    assert cells(results(find_runs([sweep])), "exact answers on held-out rows") == ("50%", "50%")


def test_losses_on_other_rows_have_no_best(tmp_path):
    add_run(tmp_path / "a", 1e-5)
    add_run(tmp_path / "b", 1e-4, dataset="others.jsonl")
    runs = find_runs([tmp_path / "a", tmp_path / "b"])
    assert not losses_compare(runs)
    assert {row.heading: row.best for row in results(runs)}["loss at the end (last tenth)"] == frozenset()


def test_runs_that_do_not_fit_beside_each_other_follow_below():
    runs = [ComparedRun(f"run-{at}", {"seed": str(at)}, {}, {}, []) for at in range(12)]
    lines = as_text([run.name for run in runs], differences(runs), width=40)
    assert max(map(len, lines)) <= 40 and sum("run-" in line for line in lines) == 3


def test_the_command_prints_both_tables_and_writes_the_page(sweep, tmp_path, capsys):
    page = tmp_path / "pages" / "sweep.html"
    assert cli.main(["compare", str(sweep), "--output", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "learning_rate     0.0001     1e-05" in printed and f"Chart    {page}" in printed
    text = page.read_text()
    assert "<td>0.0001</td><td>1e-05</td>" in text and len(text) < 2_000_000
    assert "http://" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_runs_with_other_batches_are_drawn_over_the_samples(sweep, tmp_path):
    add_run(sweep / "batch-32", 1e-4, batch=32)
    runs = find_runs([sweep])
    write_comparison(runs, comparison(runs), tmp_path / "page.html")
    assert '"axis":"Samples"' in (tmp_path / "page.html").read_text()


def test_a_run_without_a_curve_is_in_the_tables_and_noted(sweep, tmp_path):
    runs = [*find_runs([sweep]), ComparedRun("<b>", {}, {}, {"steps": 1}, training(1))]
    write_comparison(runs, comparison(runs), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "There is no curve of &lt;b&gt;" in text and "<th>&lt;b&gt;</th>" in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 1000])
def test_the_curves_are_drawn_on_top_of_each_other_in_a_browser_without_network(tmp_path, width):
    runs = [
        ComparedRun(f"a run of a sweep, {at}", {"seed": str(at)}, {}, {}, training(200 + 100 * at, loss={50: math.nan}))
        for at in range(9)
    ]
    write_comparison(runs, comparison(runs), tmp_path / "page.html")
    found = look(find_chromium(), (tmp_path / "page.html").read_text(), tmp_path, width, sandboxed=True)
    assert (found["chart"], found["errors"], found["loaded"]) == ("drawn", [], [])
    assert found["wide"] and found["overlapping"] == []
    # In the middle the shortest runs have ended.
    assert "a run of a sweep, 8" in found["tip"] and "a run of a sweep, 0" not in found["tip"]
    assert found["log"]
