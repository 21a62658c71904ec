"""tasks.yaml: the tasks of a sequence, each with its unfreeze rank ratio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_osft.pipelines.yaml_file import read_yaml
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.kubernetes_syntax import is_name
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.redaction import redacted

CONSTANT, FALLING, GROWING = "constant", "falling", "growing"
SCHEDULES = (CONSTANT, FALLING, GROWING)
_TYPES = {parameter.name: parameter.type for parameter in ALL_PARAMETERS}
_RATIO = "training_unfreeze_rank_ratio"
# What a plan and its tasks say themselves.
_OUTSIDE = (_RATIO, "training_base_model")
_PLAN_KEYS = ("base_model", "schedule", "unfreeze_rank_ratio", "factor", "planned_tasks", "training", "tasks")
# Of a task, with their defaults.
_TEXTS = {"dataset": "", "dataset_split": "train", "validation": "", "validation_split": "validation"}
_TASK_KEYS = ("name", *_TEXTS, "unfreeze_rank_ratio", "training")
# More than any number in a plan.
_MOST = 1e9
# Without rows of its own, each task holds out this share.
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Task:
    """One task of a sequence.

    Attributes:
        name: for people; also the name of its folder.
        dataset, dataset_split: rows to train on, as kfp-osft run takes them.
        validation, validation_split: rows to measure it by; empty for a share of the dataset.
        unfreeze_rank_ratio: of its training.
        training: all parameters of its training by name, without base model and ratio.
    """

    name: str
    dataset: str
    dataset_split: str
    validation: str
    validation_split: str
    unfreeze_rank_ratio: float
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A base model, and tasks to be learnt one after the other."""

    base_model: str
    tasks: tuple[Task, ...]


def ratio_of(schedule: str, first: float, position: int, factor: float = 0.5, planned_tasks: int = 0) -> float:
    """The unfreeze rank ratio of a task by its position, so that a task added at the end changes no earlier one.

    - constant: the first one for all.
    - falling: each task has `factor` times the ratio of the one before.
    - growing: the kept share grows by equal steps: before task i of n, (i - 1) / n of what the first task may change is
      kept too. With a first ratio of 1 that is the allocation for n tasks that PEFT's documentation recommends for this
      method (OSF, after arXiv:2504.07097): the first task trains everything, the last 1 / n.

    Args:
        schedule: one of SCHEDULES.
        first: ratio of the first task.
        position: from 0.
        factor: of falling.
        planned_tasks: n of growing, at least as many as there are tasks.
    """
    if schedule == FALLING:
        return first * factor**position
    if schedule == GROWING:
        return first * (1 - position / planned_tasks)
    return first


def read_plan(file: Path, on_this_computer: bool = True, defaults: Mapping[str, Any] | None = None) -> Plan:
    """Reads tasks.yaml.

    Args:
        file: to read.
        on_this_computer: whether its rows and base model may be files beside it; on a cluster they are not.
        defaults: as in plan_of.

    Raises:
        InputError: the file cannot be read, or what is wrong with it, one per line.
    """
    content = read_yaml(file)
    try:
        return plan_of(content, file.parent if on_this_computer else None, defaults)
    except InputError as error:
        raise InputError("\n".join(f"{file}: {line}" for line in str(error).splitlines())) from None


def plan_of(content: Any, folder: Path | None = None, defaults: Mapping[str, Any] | None = None) -> Plan:
    """A plan from the content of a tasks.yaml.

    Args:
        content: a mapping with base_model, tasks, and optionally schedule, unfreeze_rank_ratio, factor, planned_tasks
            and training (parameters of all tasks).
        folder: of this computer that relative paths of rows and model belong to; None leaves them as they are.
        defaults: training parameters by name that hold where the content says nothing else.

    Raises:
        InputError: what is wrong with it, one per line.
    """
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), list) or not content["tasks"]:
        raise InputError("expected a mapping with base_model and a list of tasks")
    problems = _unknown("", content, _PLAN_KEYS)
    schedule = content.get("schedule", CONSTANT)
    if schedule not in SCHEDULES:
        problems.append(f"schedule={schedule!r} is not allowed; allowed: {', '.join(SCHEDULES)}")
    if not isinstance(base_model := content.get("base_model"), str) or not base_model.strip():
        problems.append("base_model is missing: a folder, or an id on the Hugging Face Hub")
    shared = {**(defaults or {})}
    numbers = {"unfreeze_rank_ratio": shared.pop(_RATIO, 0.25), "factor": 0.5, "planned_tasks": len(content["tasks"])}
    for name, default in numbers.items():
        numbers[name] = _number(name, content.get(name, default), problems, default)
    if not 0 < numbers["factor"] <= 1:
        problems.append(f"factor={numbers['factor']} is not allowed; allowed: a number above 0, to 1")
    if schedule == GROWING and "planned_tasks" not in content:
        problems.append("planned_tasks is missing: growing needs the number of all tasks, also of those to come")
    elif numbers["planned_tasks"] < len(content["tasks"]):
        problems.append(f"planned_tasks={numbers['planned_tasks']:g} is less than the {len(content['tasks'])} tasks")
    elif numbers["planned_tasks"] % 1:
        problems.append(f"planned_tasks={numbers['planned_tasks']:g} is not a whole number")
    if problems:
        raise InputError("\n".join(problems))
    training = content.get("training") or {}
    if not isinstance(training, dict):
        raise InputError("training is not a mapping of parameters")
    tasks, shared = [], {**{name: value for name, value in shared.items() if name not in _OUTSIDE}, **training}
    for position, given in enumerate(content["tasks"]):
        ratio = ratio_of(
            schedule, numbers["unfreeze_rank_ratio"], position, numbers["factor"], int(numbers["planned_tasks"])
        )
        try:
            tasks.append(_task(position, given, ratio, shared, folder))
        except InputError as error:
            problems += str(error).splitlines()
    names = [task.name for task in tasks]
    problems += [f"the name {name} is given to two tasks" for name in sorted({n for n in names if names.count(n) > 1})]
    places = [place for task in tasks if (place := task.training.get("export_uri"))]
    problems += [
        f"export_uri={redacted(place)} is given to two tasks: each model needs a place of its own, so give it to one"
        for place in sorted({place for place in places if places.count(place) > 1})
    ]
    if problems:
        raise InputError("\n".join(problems))
    return Plan(_place(content["base_model"], folder), tuple(tasks))


def _task(position: int, given: Any, ratio: float, shared: Mapping[str, Any], folder: Path | None) -> Task:
    where = f"task {position + 1}"
    if not isinstance(given, dict):
        raise InputError(f"{where} is not a mapping; expected name and dataset")
    problems = _unknown(f"{where}: ", given, _TASK_KEYS)
    name = given.get("name")
    if not isinstance(name, str) or not is_name(name):
        problems.append(f"{where}: name={name!r} is not allowed; allowed: lower case letters, digits and '-'")
    texts = {key: given.get(key, default) for key, default in _TEXTS.items()}
    problems += [
        f"{where}: {key}={value!r} is not a text" for key, value in texts.items() if not isinstance(value, str)
    ]
    if not texts["dataset"]:
        problems.append(f"{where}: dataset is missing")
    own = given.get("training") or {}
    if not isinstance(own, dict):
        raise InputError(f"{where}: training is not a mapping of parameters")
    training = {key: _typed(key, value) for key, value in {**shared, **own}.items()}
    ratio = _as_float(given.get("unfreeze_rank_ratio", ratio))
    if not texts["validation"]:
        training.setdefault("training_validation_split", _HELD_OUT)
    for key in _OUTSIDE:
        if key in training:
            problems.append(f"{where}: {key} does not belong into training; give it outside")
    try:
        check_parameters({**training, _RATIO: ratio})
    except InputError as error:
        problems += [f"{where}: {line}" for line in str(error).splitlines()]
    if problems:
        raise InputError("\n".join(problems))
    return Task(
        str(name),
        _place(texts["dataset"], folder),
        texts["dataset_split"],
        _place(texts["validation"], folder) if texts["validation"] else "",
        texts["validation_split"],
        float(ratio),
        training,
    )


def _unknown(where: str, given: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    return [f"{where}{key} is not known; allowed: {', '.join(known)}" for key in given if key not in known]


def _number(name: str, value: Any, problems: list[str], default: float) -> float:
    value = _as_float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST:
        problems.append(f"{name}={value!r} is not a number")
        return default
    return value


def _typed(name: str, value: Any) -> Any:
    # YAML 1.1 takes 1e-5, without a point, for a text.
    return _as_float(value) if _TYPES.get(name) is float else value


def _as_float(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _place(name: str, folder: Path | None) -> str:
    """The absolute path of a file or folder beside tasks.yaml; another name, as of the Hub, unchanged."""
    if folder is None:
        return name
    path = folder / Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name
