"""The runs that people compare: where they are, what they were made from, and what came of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.pipelines.local.summary import KNOWLEDGE_FILE
from kfp_osft.pipelines.run_folders import checkpoints_of
from kfp_osft.shared.files.manifests import fingerprint
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.figures import figures
from kfp_osft.shared.training.metrics import read_steps, read_table, summarize, with_resumptions
from kfp_osft.shared.training.run_file import CHECKPOINTS, MODELS, RUN_FILE, data_made_from, library_versions, read_run
from kfp_osft.shared.training.run_parameters import training_parameters
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses
from kfp_osft.stages.collect_metrics.collection import METRICS_FILE, with_measured_losses

_PREFIX = "training_"
# Parameters of the pods and of the stages, which change nothing about the model.
_WITHOUT_EFFECT = {parameter.name for parameter in ALL_PARAMETERS if parameter.goes_to.startswith("trainjob.")} | {
    "training_show_sample",
    "training_max_dropped_share",
    "training_min_osft_share",
    "training_export_broken_model",
}
_DIGITS = 8
# KFP's folders of artifacts: a task's, and in it an output's.
_MODEL_TASK, _MODEL_OUTPUT, _STEPS_TASK, _STEPS_OUTPUT = (
    "export-model",
    "output_model",
    "collect-metrics",
    "output_steps",
)
# They are in all paths, and so tell no run from another.
_SAME_IN_ALL = (MODELS, CHECKPOINTS, METRICS_FILE, _MODEL_TASK, _MODEL_OUTPUT)


class ComparedRun(NamedTuple):
    """One run.

    Attributes:
        name: unique among those compared.
        made_from: base_model, dataset, and parameters without the prefix training_, as text by name; {} where nothing
            is known. A parameter that was left out has the library's default.
        versions: of the libraries that trained, by name; {} where they are not known.
        metrics: figures by name.
        steps: the optimizer steps; [] where the run's table is not there.
    """

    name: str
    made_from: dict[str, str]
    versions: dict[str, str]
    metrics: Mapping[str, float]
    steps: list[dict]


def find_runs(places: Sequence[Path]) -> list[ComparedRun]:
    """The runs in these places, in this order, each once.

    Args:
        places: output folders, models' folders or osft_run.json, folders of checkpoints, tables of steps, and folders
            of any of these, such as those of a ParallelFor, or KFP's folder of artifacts.

    Raises:
        InputError: a place without a run, or fewer than two runs in all.
    """
    found: dict[Path, Path] = {}
    for place in places:
        if not place.exists():
            raise InputError(f"{place}: no such file or folder")
        inside = _runs_in(place)
        if not inside:
            raise InputError(
                f"{place}: no run found; allowed: an output folder, a model's folder with its {RUN_FILE}, a table of "
                f"steps ({METRICS_FILE}), or a folder of these"
            )
        for run in inside:
            found.setdefault(run.resolve(), place)
    if len(found) < 2:
        raise InputError(f"{' '.join(map(str, places))}: a single run; at least two are needed to compare")
    names = _names(list(found), found)
    return [_read(run, name) for run, name in zip(found, names, strict=True)]


def _runs_in(place: Path, depth: int = 4) -> list[Path]:
    """Tables, folders of checkpoints and models' folders."""
    if place.is_file():
        return [place.parent if place.name == RUN_FILE else place]
    if (place / RUN_FILE).is_file() or (place / METRICS_FILE).is_file() or any(place.glob("training_metrics_*.jsonl")):
        return [place]
    for kind in (MODELS, CHECKPOINTS):
        runs = [run for folder in sorted((place / kind).glob("*")) if folder.is_dir() for run in _runs_in(folder, 0)]
        if runs:
            return runs
    folders = sorted(folder for folder in place.iterdir() if folder.is_dir()) if depth else []
    return [run for folder in folders for run in _runs_in(folder, depth - 1)]


def _names(runs: Sequence[Path], given: Mapping[Path, Path]) -> list[str]:
    """By the folder that holds the run's workspace, then by what tells them apart."""
    names = []
    for run in runs:
        parts = [part for part in run.parts if part not in _SAME_IN_ALL]
        if run.parent.name in (MODELS, CHECKPOINTS):
            # The workspace's name, and the run's where there are several in it.
            several = sum(other.parent == run.parent for other in runs) > 1
            parts = parts if several else parts[:-1]
        names.append(parts[1:] or parts)
    length = 1
    while length < max(map(len, names)) and len({tuple(parts[-length:]) for parts in names}) < len(names):
        length += 1
    short = ["/".join(parts[-length:]) for parts in names]
    return [name if short.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(short, start=1)]


def _read(place: Path, name: str) -> ComparedRun:
    if place.is_file():
        steps = read_table(place)
        return ComparedRun(name, {}, {}, dict(summarize(steps)), steps)
    run = read_run(place)
    if run is None or "parameters" not in run:
        steps = _steps(place)
        metrics = {**figures(place, steps, run), **_knowledge(place)}
        return ComparedRun(name, _made_from_record(run) if run else {}, library_versions(place), metrics, steps)
    measured = {**run.get("metrics", {}), **(run.get("evaluation") or {}).get("metrics", {})}
    metrics = {key: value for key, value in measured.items() if isinstance(value, (int, float))}
    versions = run.get("library_versions") or {}
    return ComparedRun(name, _made_from_published(run), versions, metrics, _steps_of_model(place, run))


def _steps_of_model(model: Path, run: Mapping[str, Any]) -> list[dict]:
    """The run's steps, around its model: in the workspace, or KFP's artifact; [] where the model is elsewhere now."""
    artifact = model.parent.parent / model.parent.name.replace(_MODEL_TASK, _STEPS_TASK) / _STEPS_OUTPUT
    if model.name == _MODEL_OUTPUT and artifact.is_file():
        return read_table(artifact)
    checkpoints = checkpoints_of(model, run)
    return _steps(checkpoints) if checkpoints else []


def _steps(folder: Path) -> list[dict]:
    table = folder / METRICS_FILE
    if table.is_file():
        return read_table(table)
    steps = with_resumptions(read_steps(folder), folder)
    return with_measured_losses(steps, validation_losses(steps, loss_after_the_last_step(folder)))


def _knowledge(folder: Path) -> dict[str, float]:
    try:
        return json.loads((folder / KNOWLEDGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _made_from_published(run: Mapping[str, Any]) -> dict[str, str]:
    base, rows = run["base_model"], run["dataset"]
    return {
        **_model_and_rows(
            base.get("name", ""),
            base.get("revision") or base.get("oci") or _digest(base.get("weights")),
            rows.get("hub") or rows.get("uri") or rows.get("name") or "",
            rows.get("fingerprint", ""),
        ),
        **_parameters(run["parameters"]),
    }


def _made_from_record(run: Mapping[str, Any]) -> dict[str, str]:
    """What launch_trainjob's record says."""
    made_from = data_made_from(run["osft"])
    base = made_from.get("base_model") or {}
    return {
        **_model_and_rows(
            run["about"].get("base_model", ""),
            base.get("revision") or base.get("oci") or _digest(base.get("weights")),
            Path(run["about"].get("dataset", "")).name,
            _digest(made_from.get("dataset")),
        ),
        **_parameters(training_parameters(run)),
    }


def _model_and_rows(base_model: str, version: str, rows: str, digest: str) -> dict[str, str]:
    """With the beginnings of digests: two of the same name can be different."""
    return {
        "base_model": f"{base_model} {version[:_DIGITS]}".strip(),
        "dataset": f"{rows} {digest[:_DIGITS]}".strip(),
    }


def _digest(content: Any) -> str:
    return fingerprint(content) if content else ""


def _parameters(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.removeprefix(_PREFIX): f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in parameters.items()
        if name not in _WITHOUT_EFFECT and name != "training_base_model"
    }
