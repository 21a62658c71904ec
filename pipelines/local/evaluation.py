"""Evaluations on this computer: of any two models, and a quick one at the end of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.run_folders import last_model
from kfp_osft.shared.files.atomic import writable_folder
from kfp_osft.shared.model.folder import public_name
from kfp_osft.stages.evaluate_model import comparison
from kfp_osft.stages.evaluate_model.comparison import ALL_TEXTS, Compared
from kfp_osft.stages.evaluate_model.evaluation import (
    MEASUREMENTS,
    REPORT,
    check_gate,
    check_possible,
    evaluate,
    models_of,
)
from kfp_osft.stages.evaluate_model.general_texts import GENERAL_TEXT
from kfp_osft.stages.evaluate_model.measuring import HeldOutRows, measure
from kfp_osft.stages.evaluate_model.options import TASK_NAME, checked_options
from kfp_osft.stages.evaluate_model.result import Evaluation

# Of a dataset, for the quick measure.
_ROWS = 64


def check_evaluation(evaluation: Mapping[str, Any], holds_out_rows: bool, base_model: str) -> None:
    """Sees before the training that the evaluation after it is possible.

    Args:
        evaluation: EVALUATION_PARAMETERS by name.
        holds_out_rows: whether the run has rows that it does not train on.
        base_model: folder or id on the Hugging Face Hub.

    Raises:
        InputError: a value that is not allowed; rows or benchmarks that do not exist.
    """
    check_possible(checked_options(evaluation), holds_out_rows, public_name(base_model))


def evaluate_models(
    base: str, tuned: str, dataset: Path | None, evaluation: Mapping[str, Any], output_dir: Path
) -> Evaluation:
    """Evaluates two models and prints each figure as it comes, and whether the tuned one passes.

    Args:
        base, tuned: model folders, output folders of kfp-osft run, or ids on the Hugging Face Hub.
        dataset: rows that were not trained on, or None.
        evaluation: EVALUATION_PARAMETERS by name.
        output_dir: folder of evaluation.json, evaluation.html and what was measured of each model.

    Raises:
        InputError: a value that is not allowed; a model or dataset that does not exist; models of different shapes.
        TrainingError: the gate is on, and the model does not pass.
    """
    options = checked_options(evaluation)
    models = models_of(last_model(base), last_model(tuned))
    folder = writable_folder("--output-dir", str(output_dir))
    result = evaluate(models, dataset, options, folder, folder / MEASUREMENTS)
    check_gate(result, folder / REPORT)
    return result


def quick_figures(base: Path, tuned: Path, held_out: Path | None, trust_remote_code: bool) -> list[Compared]:
    """The losses of both models on one general text, and on rows where there are some: no answers, nothing written."""
    rows = [HeldOutRows(TASK_NAME, held_out, rows=_ROWS, answer_tokens=0, examples=0)] if held_out else []
    before, after = (
        measure(model, rows, texts={ALL_TEXTS: [GENERAL_TEXT]}, trust_remote_code=trust_remote_code, label=label)
        for model, label in ((base, "Base model"), (tuned, "Tuned model"))
    )
    return [each for each in comparison.compared(before, after, TASK_NAME) if each.figure == "loss"]
