"""Benchmarks by lm-evaluation-harness (PyPI lm-eval), which is imported only where one is asked for."""

import copy
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.manifests import file_digest
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.versions import installed_versions

_BATCH = 16


@dataclass(frozen=True)
class Benchmark:
    """The main figure of one benchmark: the first metric that its task lists.

    Attributes:
        metric: its name, such as acc.
        value: as the task gives it.
        higher_is_better: whether a higher value is better.
        samples: how many questions were asked.
    """

    metric: str
    value: float
    higher_is_better: bool
    samples: int


class BenchmarkRun(NamedTuple):
    """A benchmark that is to be run: what its score depends on beside the model, and what computes it from a model of
    transformers and its tokenizer."""

    name: str
    made_from: Any
    score: Callable[[Any, Any], Benchmark]


def lm_eval_runs(names: Sequence[str], folder: Path | None) -> list[BenchmarkRun]:
    """The tasks, to run in this process; names and folder as in check_benchmarks."""
    files = sorted(folder.rglob("*")) if names and folder else []
    made_from = [{str(file): file_digest(file) for file in files if file.is_file()}, installed_versions(("lm-eval",))]
    return [BenchmarkRun(name, [name, *made_from], partial(benchmark_score, name, folder)) for name in names]


def check_benchmarks(names: list[str], folder: Path | None) -> None:
    """Sees that lm-eval is installed and knows the tasks, before a model is loaded.

    Args:
        names: of tasks or groups.
        folder: with further tasks as YAML files.

    Raises:
        InputError: it is not installed, the folder does not exist, or a name is unknown.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"benchmarks_path={folder} is not a directory")
    manager = _task_manager(folder)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise InputError(
            f"benchmarks: {', '.join(unknown)}: not a task of lm-eval{f' or of {folder}' if folder else ''}; "
            "`lm-eval ls tasks` lists them"
        )


def benchmark_score(name: str, folder: Path | None, model: Any, tokenizer: Any) -> Benchmark:
    """Runs one task with lm_eval.simple_evaluate: its own prompts and number of examples, and no chat template, as
    published results usually have it.

    Args:
        name: of the task.
        folder: with further tasks.
        model: a transformers model.
        tokenizer: the model's.

    Raises:
        InputError: the task's data cannot be had, or it reports no number.
    """
    # Not a dependency; and its decorators hide arguments from type checkers.
    harness: Any = importlib.import_module("lm_eval")
    model_class: Any = importlib.import_module("lm_eval.models.huggingface").HFLM
    evaluated = model_class(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH)
    own = model.generation_config
    model.generation_config = copy.deepcopy(own)
    # lm-eval limits an answer by max_length, which transformers ignores where a model's own settings have this.
    model.generation_config.max_new_tokens = None
    try:
        found = harness.simple_evaluate(
            evaluated, tasks=[name], task_manager=_task_manager(folder), log_samples=False, bootstrap_iters=0
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"benchmarks: lm-eval cannot run {name}: {' '.join(str(error).split())[:400]}") from error
    finally:
        model.generation_config = own
    for key, value in found["results"][name].items():
        metric = key.partition(",")[0]
        if isinstance(value, int | float) and not metric.endswith("_stderr") and metric != "sample_len":
            better = found.get("higher_is_better", {}).get(name, {}).get(metric)
            samples = found.get("n-samples", {}).get(name, {}).get("effective", 0)
            return Benchmark(metric, float(value), better is not False, samples)
    raise InputError(f"benchmarks: {name} reports no number")


# It reads all of lm-eval's tasks, which takes seconds.
@cache
def _task_manager(folder: Path | None) -> Any:
    try:
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "benchmarks need lm-evaluation-harness, which is not installed here: install lm-eval, or on a cluster use "
            f"an image that has it ({error})"
        ) from None
    return TaskManager(include_path=str(folder) if folder else None)
