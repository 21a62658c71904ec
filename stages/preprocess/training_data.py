"""preprocess: checks everything that can be known before a GPU is asked for, and tokenizes the rows."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.artifacts import OutputArtifact, place_file
from kfp_osft.shared.files.atomic import replacing_file, writable_folder, write_json
from kfp_osft.shared.files.manifests import file_digest, fingerprint, read_manifest, write_manifest
from kfp_osft.shared.model.folder import model_folder
from kfp_osft.shared.parameters.checking import CheckedParameters, check_parameters
from kfp_osft.shared.processes.pod import use_workspace
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.progress import Progress, rows_in
from kfp_osft.shared.rows.chat_tokens import ChatTokenizer, Sample
from kfp_osft.shared.rows.files import Row, dataset_files, read_rows
from kfp_osft.shared.rows.messages import Problems
from kfp_osft.shared.rows.row_formats import RowFormat, conversations
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.preprocess.base_model import (
    check_base_model,
    check_lr_scheduler,
    check_target_patterns,
    fetch_base_model,
    load_tokenizer,
)
from kfp_osft.stages.preprocess.data_report import COUNTS, DataReport, marked_text, tell_report
from kfp_osft.stages.preprocess.oci.model import is_oci_model
from kfp_osft.stages.preprocess.processed_rows import LineWriter, ProcessedRow, processed_rows, read_line
from kfp_osft.stages.preprocess.tokenizing import Line, Remarks, TokenizedPiece, tokenized_pieces
from kfp_osft.stages.preprocess.without_torch import leave_torch_out

DATA_FILE, REPORT_FILE, MANIFEST_FILE = "data.jsonl", "report.json", "manifest.json"
#: Learning rate schedulers that do not run without arguments of theirs.
SCHEDULERS_OF_ARGUMENTS = ("cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay")
#: A change of what is written here makes earlier results stale.
_FORMAT = 2


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
    *,
    own_process: bool = False,
) -> Preprocessed:
    """Checks all parameters, the base model and each row, and writes token ids and loss labels.

    The data goes to training_data_output_dir/data.jsonl (by default below the checkpoints): a line a sample with
    input_ids, labels, len and num_loss_counted_tokens, as mini-trainer reads them. Beside it lies report.json: what
    became of the rows.

    Args:
        dataset_path: file or folder of rows of one of row_formats.FORMATS, or with input_ids and labels where
            training_use_processed_dataset is set.
        pvc_path: the workspace; checkpoints go to pvc_path/checkpoints/<fingerprint of the run>.
        training: the training parameters by name.
        output_report: gets report.json.
        own_process: this process does nothing else, so that torch can be left out of it.

    Raises:
        InputError: anything that would fail, or train on nothing, later.
    """
    checked = check_parameters(training)
    for warning in checked.warnings:
        log(f"Warning: {warning}")
    osft = dict(checked.osft)
    # Trying a scheduler needs torch; most have nothing that could be wrong.
    tries_scheduler = "lr_scheduler_kwargs" in osft or osft.get("lr_scheduler") in SCHEDULERS_OF_ARGUMENTS
    if own_process and not tries_scheduler:
        leave_torch_out()
    workspace = writable_folder("pvc_path", pvc_path)
    use_workspace(workspace)
    # Before a model is pulled: a wrong path is told at once.
    files = dataset_files(Path(dataset_path))
    given_model = osft["model_path"]
    osft["model_path"] = fetch_base_model(given_model, workspace)
    model = check_base_model(osft["model_path"])
    folder_of_model = model_folder(osft["model_path"])
    if folder_of_model is not None:
        osft["model_path"] = str(folder_of_model.absolute())
    check_target_patterns(osft["model_path"], osft.get("target_patterns", []))
    if tries_scheduler:
        check_lr_scheduler(osft)

    data_output_dir = osft.pop("data_output_dir", None)
    is_processed = osft.pop("use_processed_dataset", False)
    data_made_from = {
        "format": _FORMAT,
        # The content alone: the same rows under another name are the same training.
        "dataset": [file_digest(file) for file in files],
        "base_model": model,
        "processed": is_processed,
        **{key: osft.get(key) for key in ("max_seq_len", "max_tokens_per_gpu", "unmask_messages")},
    }
    run = fingerprint([data_made_from, {**osft, "model_path": None}, checked.env])
    checkpoint_dir = workspace / "checkpoints" / run[:12]
    folder = writable_folder(
        "training_data_output_dir", data_output_dir or str(checkpoint_dir / "_internal_data_processing")
    )
    _check_places(folder, Path(dataset_path), files)
    data_path, report_path, manifest_path = (folder / name for name in (DATA_FILE, REPORT_FILE, MANIFEST_FILE))

    tokenizer = cache(lambda: load_tokenizer(osft["model_path"]))
    manifest = read_manifest(manifest_path, data_made_from)
    if manifest and data_path.is_file():
        report = manifest["report"]
        log(f"The data in {folder} was made from the same rows, model and parameters: used again")
        _check_dropped(Path(dataset_path), report, checked)
    else:
        # Without its manifest nothing trusts the data, also when this process dies between the files.
        manifest_path.unlink(missing_ok=True)
        report_path.unlink(missing_ok=True)
        with replacing_file(data_path) as unfinished:
            report = _write_samples(Path(dataset_path), files, unfinished, checked, tokenizer(), own_process)
        write_manifest(manifest_path, data_made_from, report=report)
    report = _publish_report(
        report, fingerprint(data_made_from), folder, tokenizer if checked.data["show_sample"] else None
    )
    tell_report(report)
    if output_report is not None:
        place_file(report_path, output_report)

    osft |= {
        "data_path": str(data_path),
        "data_output_dir": str(folder),
        "use_processed_dataset": True,
        "ckpt_output_dir": str(checkpoint_dir),
    }
    config = TrainingConfig(
        run,
        osft,
        checked.trainjob,
        checked.data,
        checked.env,
        {
            "base_model": given_model if is_oci_model(given_model) else osft["model_path"],
            "dataset": dataset_path,
            **{name: report[name] for name in COUNTS},
        },
    )
    return Preprocessed(str(data_path), report["samples"], config.to_json())


def _check_places(folder: Path, dataset: Path, files: list[Path]) -> None:
    """Sees that the output does not overwrite the dataset and does not become part of it."""
    ours = {(folder / name).resolve() for name in (DATA_FILE, REPORT_FILE, MANIFEST_FILE)}
    if ours & {file.resolve() for file in files}:
        raise InputError(
            f"training_data_output_dir={folder}: its {DATA_FILE}, {REPORT_FILE} or {MANIFEST_FILE} is "
            "the dataset itself, which would be overwritten; give another folder"
        )
    if folder.resolve().is_relative_to(dataset.resolve()):
        raise InputError(
            f"training_data_output_dir={folder}: lies in the dataset folder {dataset}, so that "
            f"the next run would read its {DATA_FILE} as rows; give another folder"
        )


def _write_samples(
    dataset: Path, files: list[Path], target: Path, checked: CheckedParameters, tokenizer: Any, own_process: bool
) -> dict[str, Any]:
    """Writes the samples that training keeps and returns the report."""
    osft = checked.osft
    report, problems = DataReport(osft["max_seq_len"]), Problems()
    gatherers = {"problems": problems, "warnings": report.warnings}
    progress = Progress(rows_in(files))
    work = _row_worker(checked, tokenizer)
    with target.open("w", encoding="ascii", buffering=1 << 20) as file:
        for piece in tokenized_pieces(read_rows(dataset), work, own_process):
            for name, said in piece.remarks.items():
                for one in said:
                    gatherers[name].add(*one)
            for place, length, loss_tokens, line in piece.lines:
                progress.advance()
                if report.drops(place, length):
                    continue
                if length > osft["max_tokens_per_gpu"]:
                    problems.add(
                        f"{place}: has {length} tokens, more than "
                        f"training_max_tokens_per_gpu={osft['max_tokens_per_gpu']}; raise that, or lower "
                        "training_max_seq_len to drop such rows"
                    )
                elif not loss_tokens:
                    problems.add(f"{place}: has no token to learn from")
                else:
                    report.keep(length, loss_tokens)
                    file.write(line)
    problems.raise_if_any()
    if not report.rows:
        raise InputError(f"dataset {dataset} has no rows")
    if not report.samples:
        raise InputError(f"dataset {dataset}: no row is left to train on; dropped were {report.dropped_in_words()}")
    told = report.to_dict()
    _check_dropped(dataset, told, checked)
    return told


def _row_worker(checked: CheckedParameters, tokenizer: Any) -> Callable[[list[Row]], TokenizedPiece]:
    """What tokenizes a piece of the rows; in each process it goes on knowing what it found in the pieces before."""
    osft = checked.osft
    # Ids may have holes, so that the last is beyond their number.
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    writer = LineWriter(vocabulary)
    remarks = {"problems": Remarks(), "warnings": Remarks()}
    problems, warnings = remarks.values()
    chat = None if osft.get("use_processed_dataset") else ChatTokenizer(tokenizer, warnings)
    row_format = RowFormat()

    def tokenize(rows: list[Row]) -> TokenizedPiece:
        samples: Iterator[tuple[str, Sample | ProcessedRow]]
        if chat is None:
            samples = processed_rows(rows, vocabulary, problems, warnings)
        else:
            found = conversations(rows, osft.get("unmask_messages", False), problems, warnings, row_format)
            samples = chat.samples(found, problems)
        lines = [
            Line(place, len(sample.input_ids), sample.num_loss_counted_tokens, writer.line(sample))
            for place, sample in samples
        ]
        said = {name: one.said for name, one in remarks.items() if one.said}
        for one in remarks.values():
            one.said = []
        return TokenizedPiece(lines, said)

    return tokenize


def _check_dropped(dataset: Path, report: Mapping[str, Any], checked: CheckedParameters) -> None:
    dropped, limit = report["rows"] - report["samples"], checked.data["max_dropped_share"]
    if dropped > limit * report["rows"]:
        raise InputError(
            f"dataset {dataset}: {dropped:,} of {report['rows']:,} rows are dropped "
            f"({dropped / report['rows']:.0%}), more than training_max_dropped_share={limit:g}: "
            f"{report['dropped_in_words']}"
        )


def _publish_report(
    report: dict[str, Any], made_from: str, folder: Path, tokenizer: Callable[[], Any] | None
) -> dict[str, Any]:
    """Writes report.json, with the first sample where a tokenizer is given, and returns what is in it.

    The manifest holds no sample: whether one is shown is no matter of what the data was made from.
    """
    path = folder / REPORT_FILE
    earlier = _read_report(path)
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


def _read_report(path: Path) -> dict[str, Any]:
    """An earlier report, or an empty one where there is none that can be read."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}
