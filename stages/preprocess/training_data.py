"""preprocess: checks everything that can be known before a GPU is asked for, and tokenizes the rows."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.artifacts import OutputArtifact, place_file
from kfp_osft.shared.files.atomic import read_json_object, replacing_file, writable_folder, write_json
from kfp_osft.shared.files.manifests import file_digest, fingerprint, read_manifest, write_manifest
from kfp_osft.shared.files.ownership import OWNER_FILE, owned
from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.parameters.checking import CheckedParameters, check_parameters
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.push.destination import check_destination
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.files import dataset_files
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.shared.training.run_file import CHECKPOINTS, DATA_MANIFEST
from kfp_osft.shared.training.versions import TOKENIZING, TRAINING, installed_versions
from kfp_osft.stages.preprocess.artifact_model import ModelArtifact, base_of_artifact
from kfp_osft.stages.preprocess.base_model import (
    BaseModel,
    check_base_model,
    check_lr_scheduler,
    fetch_weights,
    find_base_model,
    load_tokenizer,
)
from kfp_osft.stages.preprocess.data_report import COUNTS, marked_text, planned_training
from kfp_osft.stages.preprocess.documents import document_columns
from kfp_osft.stages.preprocess.needs import find_needs
from kfp_osft.stages.preprocess.osft_coverage import CoverageSearch, check_coverage
from kfp_osft.stages.preprocess.processed_rows import read_line
from kfp_osft.stages.preprocess.report_page import publish
from kfp_osft.stages.preprocess.row_source import (
    RowSource,
    check_first_row,
    train_and_held_out,
    without_rows_of,
)
from kfp_osft.stages.preprocess.runs_data import keep_for_the_run
from kfp_osft.stages.preprocess.samples import check_dropped, row_worker, write_samples
from kfp_osft.stages.preprocess.tokenizing import TokenizedPiece, tokenized_pieces
from kfp_osft.stages.preprocess.trained_here import base_of_this_run
from kfp_osft.stages.preprocess.trainer_settings import check_trackers, check_validation, validation_arguments
from kfp_osft.stages.preprocess.without_torch import leave_torch_out

DATA_FILE, REPORT_FILE = "data.jsonl", "report.json"
# Says in a manifest whose files those beside it are.
_WRITER = "kfp-osft preprocess"
#: The held-out rows, tokenized as the others are.
VALIDATION_FILE = "validation.jsonl"
#: Learning rate schedulers that do not run without arguments of theirs.
SCHEDULERS_OF_ARGUMENTS = ("cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay")
#: A change of what is written here makes earlier results stale.
_FORMAT = 4
_SEED = next(each.when_left_out for each in ALL_PARAMETERS if each.name == "training_seed")
# Of a fingerprint, enough to name a folder.
_NAME_LENGTH = 12


class Preprocessed(NamedTuple):
    """What preprocess gives to the next stages."""

    data_path: str
    num_samples: int
    training_config: str


def preprocess_dataset(
    dataset_path: str,
    pvc_path: str,
    training: Mapping[str, Any],
    output_report: OutputArtifact | None = None,
    validation_path: str = "",
    base_artifact: ModelArtifact | None = None,
    *,
    output_summary: OutputArtifact | None = None,
    own_process: bool = False,
    with_weights: bool = True,
) -> Preprocessed:
    """Checks all parameters, the base model and each row, and writes token ids and loss labels.

    The data goes to training_data_output_dir/data.jsonl (by default below the checkpoints): a line a sample with
    input_ids, labels, len and num_loss_counted_tokens, as mini-trainer reads them. Beside it lie report.json: what
    became of the rows, and validation.jsonl: the rows that are held out, in the same form, if there are some. The
    training reads them below its checkpoints, where no other run replaces them.

    Args:
        dataset_path: file or folder of rows of one of row_formats.FORMATS, or with input_ids and labels where
            training_use_processed_dataset is set.
        pvc_path: the workspace; checkpoints go to pvc_path/checkpoints/<fingerprint of the run>.
        training: the training parameters by name.
        output_report: gets report.json.
        validation_path: file or folder of rows to hold out, or empty.
        base_artifact: the base model, in place of training_base_model; or None.
        output_summary: gets the log's report as a page in Markdown.
        own_process: this process does nothing else, so that torch can be left out of it.
        with_weights: fetches the weights of a Hub model, which the training needs and nothing here does.

    Raises:
        InputError: anything that would fail, or train on nothing, later.
    """
    checked = check_parameters(training)
    for warning in checked.warnings:
        log(f"Warning: {warning}")
    check_validation(checked, bool(validation_path or checked.data["validation_split"]))
    check_trackers(checked)
    osft = dict(checked.osft)
    # Trying a scheduler needs torch; most have nothing that could be wrong.
    tries_scheduler = "lr_scheduler_kwargs" in osft or osft.get("lr_scheduler") in SCHEDULERS_OF_ARGUMENTS
    if own_process and not tries_scheduler:
        leave_torch_out()
    workspace = writable_folder("pvc_path", pvc_path)
    use_workspace(workspace)
    # Before a model is pulled: a wrong path is told at once.
    files = dataset_files(Path(dataset_path))
    validation_files = _validation_files(validation_path, checked)
    _check_first_row(Path(dataset_path), checked)
    if export_uri := training.get("export_uri", "").strip():
        check_destination("export_uri", export_uri)
    trusted = osft.get("trust_remote_code", False)
    if base_artifact is not None:
        osft["model_path"] = base_of_artifact(base_artifact, workspace, trusted)
    base_model = find_base_model(osft["model_path"], workspace, trusted)
    model = check_base_model(base_model, trusted)
    if tries_scheduler:
        check_lr_scheduler(osft)

    data_output_dir = osft.pop("data_output_dir", None)
    is_processed = osft.pop("use_processed_dataset", False)
    data_made_from = {
        "format": _FORMAT,
        # The content alone: the same rows under another name are the same training.
        "dataset": [file_digest(file) for file in files],
        "base_model": model,
        "libraries": installed_versions(TOKENIZING),
        "processed": is_processed,
        "documents": "block_size" in osft,
        "columns": checked.data.get("columns"),
        "held_out": [file_digest(file) for file in validation_files],
        **_choice_of_rows(checked),
        **{key: osft.get(key) for key in ("max_seq_len", "max_tokens_per_gpu", "unmask_messages")},
    }
    # On a cluster the runtime stands for the versions in its image, which are not known here.
    trained_with = [installed_versions(TRAINING), checked.trainjob["runtime"]]

    def run_from(base: Mapping[str, Any]) -> str:
        made_from = {**data_made_from, "base_model": base}
        every = checked.data.get("validation_every")
        return fingerprint([made_from, {**osft, "model_path": None}, every, checked.env, trained_with])

    def name_from(other: Path) -> str:
        return run_from(check_base_model(BaseModel(str(other), other), trusted))[:_NAME_LENGTH]

    base = base_of_this_run(base_model.folder, workspace, name_from)
    if base != base_model.folder:
        base_model = BaseModel(str(base), base)
        data_made_from["base_model"] = model = check_base_model(base_model, trusted)
    osft["model_path"] = str(base_model.folder)
    run = run_from(model)
    checkpoint_dir = workspace / CHECKPOINTS / run[:_NAME_LENGTH]
    runs_folder = checkpoint_dir / "_internal_data_processing"
    folder = writable_folder("training_data_output_dir", data_output_dir or str(runs_folder))
    _check_places(folder, Path(dataset_path), files)
    if validation_path:
        _check_places(folder, Path(validation_path), validation_files)
    data_path, report_path, manifest_path = (folder / name for name in (DATA_FILE, REPORT_FILE, DATA_MANIFEST))
    held_out_path = folder / VALIDATION_FILE

    tokenizer = cache(lambda: load_tokenizer(base_model, trusted))
    with (
        owned(folder / OWNER_FILE, "preprocess"),
        CoverageSearch(base_model, model, osft, (earlier := read_json_object(report_path)).get("osft") or {}) as search,
    ):
        manifest = read_manifest(manifest_path, data_made_from)

        def find_coverage() -> tuple[dict[str, Any], Coverage]:
            found = search.result()
            coverage = Coverage(**{key: value for key, value in found.items() if key != "made_from"})
            check_coverage(base_model, coverage, checked.data["min_osft_share"])
            return found, coverage

        if manifest:
            report = manifest["report"]
            log(f"The data in {folder} was made from the same rows, model and parameters: used again")
            check_dropped(Path(dataset_path), report, checked)
        else:
            earlier = {}
            trained_on, held_out = _sources(Path(dataset_path), validation_path, checked)

            def written(source: RowSource, files: list[Path], unfinished: Path) -> dict[str, Any]:
                pieces = tokenized_pieces(source.rows(), row_worker(checked, tokenizer()), own_process)
                return write_samples(source, files, unfinished, checked, _until_refused(pieces, search, find_coverage))

            with ExitStack() as complete:
                report = written(trained_on, files, complete.enter_context(replacing_file(data_path)))
                report["validation"] = None
                if held_out:
                    log("The held-out rows:")
                    unfinished = complete.enter_context(replacing_file(held_out_path))
                    report["validation"] = written(held_out, validation_files or files, unfinished)
                find_coverage()
                # Should this process die before the manifest is whole, nothing trusts the data; a rerun replaces it.
                write_json(manifest_path, {"written_by": _WRITER})
                report_path.unlink(missing_ok=True)
                held_out_path.unlink(missing_ok=True)
            made = [data_path, held_out_path] if report["validation"] else [data_path]
            write_manifest(manifest_path, data_made_from, made, written_by=_WRITER, report=report)
        found, coverage = find_coverage()
        uses_family_patterns = "target_patterns" not in osft
        osft["target_patterns"] = coverage.patterns
        report |= {"training": planned_training(report, osft, checked.trainjob["num_workers"])}
        needs = find_needs(base_model.folder, coverage, osft, checked.trainjob, report, workspace)
        every, runs_held_out = checked.data.get("validation_every"), str(runs_folder / VALIDATION_FILE)
        validates = validation_arguments(every, runs_held_out, report["training"]) if every else {}
        report = _publish_report(
            {**report, "osft": found},
            fingerprint(data_made_from),
            folder,
            earlier,
            tokenizer if checked.data["show_sample"] else None,
        )
        keep_for_the_run((data_path, held_out_path), report_path, manifest_path, data_made_from, runs_folder)
    publish(
        report, [coverage.describe(), *needs.lines, *(f"Warning: {each}" for each in needs.warnings)], output_summary
    )
    if output_report is not None:
        place_file(runs_folder / REPORT_FILE, output_report)
    # At last: bad rows have not waited for them.
    if with_weights:
        fetch_weights(base_model)

    osft |= {
        "data_path": str(runs_folder / DATA_FILE),
        "data_output_dir": str(runs_folder),
        "use_processed_dataset": True,
        "ckpt_output_dir": str(checkpoint_dir),
        **({"is_pretraining": True} if "block_size" in osft else {}),
        **validates,
    }
    held_out_data = {"validation_path": runs_held_out} if report["validation"] else {}
    config = TrainingConfig(
        run,
        osft,
        checked.trainjob,
        checked.data | held_out_data | {"made_from": fingerprint(data_made_from)},
        checked.env,
        {
            "base_model": base_model.name,
            "dataset": dataset_path,
            "osft_coverage": coverage.figures(),
            "memory_need": needs.memory,
            "uses_family_patterns": uses_family_patterns,
            "validation_dataset": validation_path,
            "validation_samples": report["validation"]["samples"] if report["validation"] else 0,
            **{name: report[name] for name in COUNTS},
        },
    )
    return Preprocessed(str(data_path), report["samples"], config.to_json())


def _validation_files(validation_path: str, checked: CheckedParameters) -> list[Path]:
    if not validation_path:
        return []
    share = checked.data["validation_split"]
    if share:
        raise InputError(
            f"training_validation_split={share:g} and validation_uri are both given (its rows are in "
            f"{validation_path}); give one of them"
        )
    files = dataset_files(Path(validation_path))
    _check_first_row(Path(validation_path), checked)
    return files


def _check_first_row(dataset: Path, checked: CheckedParameters) -> None:
    columns = _columns(dataset, checked)
    if "block_size" not in checked.osft:
        check_first_row(dataset, columns, checked.osft.get("use_processed_dataset", False))


def _columns(dataset: Path, checked: CheckedParameters) -> dict[str, str] | None:
    """Which columns of the dataset are what; None where they have known names."""
    return document_columns(dataset, checked) if "block_size" in checked.osft else checked.data.get("columns")


def _choice_of_rows(checked: CheckedParameters) -> dict[str, Any]:
    """What decides which of the rows are trained on; nothing where all are."""
    subset, share = checked.data["subset"], checked.data["validation_split"]
    if not subset and not share:
        return {}
    return {"subset": subset, "validation_split": share, "seed": checked.osft.get("seed", _SEED)}


def _sources(dataset: Path, validation_path: str, checked: CheckedParameters) -> tuple[RowSource, RowSource | None]:
    """The rows to train on, and those to hold out, if there are some."""
    trained_on = RowSource(dataset, _columns(dataset, checked))
    held_out = None
    if choice := _choice_of_rows(checked):
        log("Choosing the rows")
        trained_on, held_out = train_and_held_out(
            trained_on, choice["subset"], choice["validation_split"], choice["seed"]
        )
    if validation_path:
        held_out = RowSource(Path(validation_path), _columns(Path(validation_path), checked))
        held_out = without_rows_of(held_out, trained_on)
    return trained_on, held_out


def _check_places(folder: Path, dataset: Path, files: list[Path]) -> None:
    """Sees that the output does not overwrite the dataset, nor anybody's files, and does not become part of it."""
    ours = {(folder / name).resolve() for name in (DATA_FILE, VALIDATION_FILE, REPORT_FILE, DATA_MANIFEST)}
    if ours & {file.resolve() for file in files}:
        raise InputError(
            f"training_data_output_dir={folder}: its {DATA_FILE}, {VALIDATION_FILE}, {REPORT_FILE} or {DATA_MANIFEST} "
            "is the dataset itself, which would be overwritten; give another folder"
        )
    _check_ours(folder)
    if folder.resolve().is_relative_to(dataset.resolve()):
        raise InputError(
            f"training_data_output_dir={folder}: lies in the dataset folder {dataset}, so that "
            f"the next run would read its {DATA_FILE} as rows; give another folder"
        )


def _check_ours(folder: Path) -> None:
    """Sees that what would be replaced was written here: only our own manifest says so."""
    if (folder / "config.json").is_file():
        raise InputError(f"training_data_output_dir={folder}: is a model folder; give a folder for the data alone")
    there = [
        name for name in (DATA_FILE, VALIDATION_FILE, REPORT_FILE, DATA_MANIFEST) if os.path.lexists(folder / name)
    ]
    if there and read_json_object(folder / DATA_MANIFEST).get("written_by") != _WRITER:
        raise InputError(
            f"training_data_output_dir={folder}: holds {', '.join(there)}, which preprocess did not write and would "
            "overwrite; give another folder, or remove them"
        )


def _until_refused(
    pieces: Iterable[TokenizedPiece], search: CoverageSearch, find_coverage: Callable[[], object]
) -> Iterator[TokenizedPiece]:
    """Passes pieces on, and raises as soon as it is known that the model cannot be trained."""
    told = False
    for piece in pieces:
        if not told and search.is_done():
            find_coverage()
            told = True
        yield piece


def _publish_report(
    report: dict[str, Any],
    made_from: str,
    folder: Path,
    earlier: Mapping[str, Any],
    tokenizer: Callable[[], Any] | None,
) -> dict[str, Any]:
    """Writes report.json, with the first sample where a tokenizer is given, and returns what is in it.

    The manifest holds no sample: whether one is shown is no matter of what the data was made from.
    """
    path = folder / REPORT_FILE
    report = {"made_from": made_from, **report}
    if tokenizer:
        sample = earlier.get("sample") if earlier.get("made_from") == made_from else None
        if sample is None:
            with (folder / DATA_FILE).open(encoding="ascii") as file:
                sample = marked_text(read_line(file.readline()), tokenizer().decode)
        report["sample"] = sample
    if report != earlier:
        write_json(path, report)
    return report
