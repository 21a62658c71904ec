"""Learns tasks one after the other on this computer, and measures all of them after each."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.local.run import run_locally
from kfp_osft.pipelines.sequence.card import write_card
from kfp_osft.pipelines.sequence.page import write_page
from kfp_osft.pipelines.sequence.plan import Plan, Task
from kfp_osft.pipelines.sequence.result import LearntTask, SequenceResult
from kfp_osft.shared.files.atomic import writable_folder, write_json
from kfp_osft.shared.files.manifests import file_digest, fingerprint, read_manifest, sampled_digest, write_manifest
from kfp_osft.shared.knowledge.check import check_run, model_on_disk
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.files import dataset_files
from kfp_osft.shared.training.run_file import read_run
from kfp_osft.stages.evaluate_model.evaluation import MEASUREMENTS
from kfp_osft.stages.evaluate_model.measuring import measure
from kfp_osft.stages.evaluate_model.options import Options

RESULT, PAGE, CARD = "sequence.json", "sequence.html", "README.md"
_DONE = "done.json"
_MATRICES, _SECONDS = 6, 120.0


def run_sequence(plan: Plan, output_dir: Path, options: Options, quiet: bool = False) -> SequenceResult:
    """Learns the tasks of a plan, each from the model before it.

    Each task has its folder in output_dir, with the output of kfp-osft run. A task that is done is not trained again as
    long as nothing that made its model has changed: the plan's base model, the rows, parameters and ratio of the task
    and of those before it. So a killed sequence goes on with the task that is not done, and a task added at the end is
    the only one that is trained.

    Args:
        plan: of the sequence.
        output_dir: gets a folder per task, sequence.json, sequence.html and README.md.
        options: how many rows are measured, and up to which length answers are compared.
        quiet: as in run_locally.

    Raises:
        InputError: rows or base model that cannot be had.
        TrainingError: a training failed; what was learnt before it stays.
    """
    output_dir = writable_folder("--output-dir", str(output_dir)).resolve()
    base = model_on_disk("base_model", plan.base_model)
    for task in plan.tasks:
        _digests(task)
    learnt: list[LearntTask] = []
    result: SequenceResult | None = None
    model, made_from = base, _model_digest(base)
    for number, task in enumerate(plan.tasks, start=1):
        log(f"\nTask {number} of {len(plan.tasks)}: {task.name}, unfreeze rank ratio {task.unfreeze_rank_ratio:g}")
        made_from = fingerprint([made_from, _digests(task), asdict(task)])
        learnt.append(_learnt(task, model, made_from, output_dir / task.name, quiet))
        model = learnt[-1].model
        # After each task, so that what is known so far can be looked at.
        result = _measured(plan, base, learnt, options, output_dir / MEASUREMENTS)
        write_json(output_dir / RESULT, result.to_dict())
        write_page(result, output_dir / PAGE)
        write_card(result, output_dir / CARD)
    assert result is not None  # A plan has a task.
    return result


def _learnt(task: Task, base: Path, made_from: str, folder: Path, quiet: bool) -> LearntTask:
    done = read_manifest(folder / _DONE, made_from)
    if done and Path(done["held_out"]).is_file():
        log("Learnt before")
        return LearntTask(task, Path(done["model"]), Path(done["held_out"]), done["kept"])
    run = run_locally(
        folder,
        task.dataset,
        task.dataset_split,
        {
            **task.training,
            "training_base_model": str(base),
            "training_unfreeze_rank_ratio": task.unfreeze_rank_ratio,
        },
        quiet,
        task.validation,
        task.validation_split,
    )
    checkpoint_dir = run.steps.parent
    held_out = _run(checkpoint_dir)["data"]["validation_path"]
    # The last model of this folder is final_model, which a later run may replace.
    model = run.model.resolve()
    kept = check_run(checkpoint_dir, model, matrices=_MATRICES, seconds=_SECONDS).verdict
    # The card beside the weights may still change.
    write_manifest(
        folder / _DONE, made_from, sorted(model.glob("*.safetensors")), model=str(model), held_out=held_out, kept=kept
    )
    return LearntTask(task, model, Path(held_out), kept)


def _measured(plan: Plan, base: Path, learnt: list[LearntTask], options: Options, cache: Path) -> SequenceResult:
    """Measures of the base and of each model; what was measured before comes from the cache."""
    rows = [options.held_out(each.task.name, each.held_out) for each in learnt]
    of_base = measure(base, rows, cache=cache, label="Base model")
    after = [
        measure(each.model, rows[: at + 1], cache=cache, label=f"Model after {each.task.name}")
        for at, each in enumerate(learnt)
    ]
    return SequenceResult(plan.base_model, list(learnt), of_base, after)


def _run(checkpoint_dir: Path) -> Mapping[str, Any]:
    return read_run(checkpoint_dir) or {}


def _digests(task: Task) -> list[Any]:
    """Digests of the task's rows where they are files of this computer, else their names."""
    return [
        [file_digest(file) for file in dataset_files(Path(rows))] if rows and Path(rows).exists() else rows
        for rows in (task.dataset, task.validation)
    ]


def _model_digest(model: Path) -> str:
    return fingerprint([[file.name, sampled_digest(file)] for file in sorted(model.glob("*.safetensors"))])
