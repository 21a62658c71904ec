"""The parameters of an evaluation, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_osft.shared.parameters.checking import checked_value
from kfp_osft.shared.parameters.evaluation_parameters import EVALUATION_PARAMETERS
from kfp_osft.shared.parameters.key_values import parse_key_values
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.evaluate_model.comparison import Limits
from kfp_osft.stages.evaluate_model.hub_api import check_hub_url
from kfp_osft.stages.evaluate_model.measuring import HeldOutRows

#: Name of the rows of the task that was trained.
TASK_NAME = "held-out rows"


@dataclass(frozen=True)
class Options:
    """What is measured beside the task's own rows, and when it passes."""

    limits: Limits = field(default_factory=Limits)
    gate: bool = False
    earlier_tasks: Mapping[str, Path] = field(default_factory=dict)
    benchmarks: tuple[str, ...] = ()
    benchmarks_path: Path | None = None
    rows: int = 200
    answer_tokens: int = 32
    eval_hub_url: str = ""

    def held_out(self, name: str, path: Path) -> HeldOutRows:
        """Rows of one task, as many as these options say."""
        return HeldOutRows(name, path, self.rows, self.answer_tokens)


def checked_options(given: Mapping[str, Any]) -> Options:
    """The options by the names of EVALUATION_PARAMETERS; those left out have their defaults.

    Raises:
        InputError: unknown names and values that are not allowed, one per line.
    """
    known = {parameter.name for parameter in EVALUATION_PARAMETERS}
    problems = [f"{name} is not a parameter of an evaluation" for name in given if name not in known]
    values: dict[str, Any] = {}
    for parameter in EVALUATION_PARAMETERS:
        try:
            values[parameter.name] = checked_value(parameter, given.get(parameter.name, parameter.default))
        except InputError as error:
            problems.append(str(error))
    earlier: dict[str, str] = {}
    try:
        earlier = parse_key_values("earlier_tasks", values.get("earlier_tasks", ""))
    except InputError as error:
        problems.append(str(error))
    if TASK_NAME in earlier:
        problems.append(f"earlier_tasks: a task cannot be named {TASK_NAME!r}")
    hub_url = str(values.get("eval_hub_url", "")).strip()
    try:
        if hub_url:
            check_hub_url(hub_url)
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return Options(
        Limits(values["max_forgetting"], values["min_improvement"]),
        values["gate"],
        {name: Path(path).expanduser() for name, path in earlier.items()},
        tuple(name.strip() for name in values["benchmarks"].split(",") if name.strip()),
        Path(values["benchmarks_path"]).expanduser() if values["benchmarks_path"] else None,
        values["evaluation_rows"],
        values["evaluation_answer_tokens"],
        hub_url,
    )
