"""Before a local run: what it takes where nothing is given, and the dry run, which ends before the training."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.pipelines.local.defaults import EXAMPLE_MODEL, choose_defaults
from kfp_osft.pipelines.local.measured_speed import measured_time
from kfp_osft.pipelines.local.progress import WARNING
from kfp_osft.pipelines.local.run import absolute_path, prepare_environment
from kfp_osft.shared.files.atomic import writable_folder
from kfp_osft.shared.reporting.log import log
from kfp_osft.stages.preprocess.base_model import find_base_model
from kfp_osft.stages.preprocess.needs import gpu_memories
from kfp_osft.stages.preprocess.training_data import preprocess_dataset
from kfp_osft.stages.resolve_dataset.source import resolve


class PlannedRun(NamedTuple):
    """A run whose rows and base model are there.

    Attributes:
        training: the given training parameters, and those that were chosen.
        dataset_path, validation_path: where the rows lie now.
    """

    training: dict[str, Any]
    dataset_path: str
    validation_path: str


def plan_run(
    output_dir: Path,
    rows: Mapping[str, str],
    given: Mapping[str, Any],
    example_model: Path | None = None,
    choose: bool = True,
    quiet: bool = False,
) -> PlannedRun:
    """Fetches rows and the base model's small files, and chooses what is not given; says what it chose.

    Args:
        output_dir: the workspace.
        rows: dataset_uri, dataset_split, validation_uri, validation_uri_split.
        given: training parameters by name, checked.
        example_model: the base model where none is given.
        choose: False for a run that is repeated, where what is not given has the pipeline's default.
        quiet: of what fetching says, shows only warnings.

    Raises:
        InputError: rows or model that are not there, or out of reach.
    """
    output_dir = writable_folder("--output-dir", str(output_dir)).resolve()
    prepare_environment()
    dataset, validation = (absolute_path(rows[name]) for name in ("dataset_uri", "validation_uri"))
    chosen: dict[str, Any] = {}
    lines = []
    if example_model is not None:
        chosen["training_base_model"] = str(example_model)
        lines.append(EXAMPLE_MODEL)
    said = _only_warnings if quiet else contextlib.nullcontext
    # A download may take long, and of a dry run nobody else tells the warnings.
    with said():
        found = resolve(dataset, rows["dataset_split"], str(output_dir), None, validation, rows["validation_uri_split"])
    if choose:
        model = {**chosen, **given}["training_base_model"]
        with said():
            folder = find_base_model(model, output_dir, bool(given.get("training_trust_remote_code"))).folder
        defaults = choose_defaults(
            given, Path(found.dataset_path), found.num_rows, bool(validation), folder, bool(gpu_memories())
        )
        chosen |= defaults.parameters
        lines += defaults.lines
    if lines:
        log("Chosen where nothing was given:")
    for line in lines:
        log(f"  {line}")
    return PlannedRun({**given, **chosen}, found.dataset_path, found.validation_path)


@contextlib.contextmanager
def _only_warnings() -> Iterator[None]:
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            yield
    finally:
        for line in output.getvalue().splitlines():
            if line.startswith(WARNING):
                log(line)


def dry_run(output_dir: Path, plan: PlannedRun) -> None:
    """Checks everything as preprocess does, and prints rows, steps, a sample, memory, disk and time; trains nothing.

    Raises:
        InputError: what preprocess raises.
    """
    output_dir = output_dir.resolve()
    prepared = preprocess_dataset(
        plan.dataset_path, str(output_dir), plan.training, None, plan.validation_path, with_weights=False
    )
    if line := measured_time(prepared.training_config, output_dir):
        log(line)
    log("\nNothing was trained. The same command without --dry-run trains; it uses the tokenized rows again.")
