"""preprocess: checks everything that can be known before a GPU is asked for, and tokenizes the rows."""

import json
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.base_model import (
    check_base_model,
    check_lr_scheduler,
    check_target_patterns,
    fetch_base_model,
    load_tokenizer,
    model_folder,
)
from kfp_osft.shared.chat_tokens import NO_LOSS, ChatTokenizer, Conversation, Sample
from kfp_osft.shared.dataset_files import Row, dataset_files, read_rows
from kfp_osft.shared.dataset_rows import (
    PRETRAINING_ROLE,
    Problems,
    is_unmasked,
    messages_of,
    without_pretraining_role,
)
from kfp_osft.shared.errors import InputError
from kfp_osft.shared.log import log
from kfp_osft.shared.oci_model import is_oci_model
from kfp_osft.shared.parameters import CheckedParameters, check_parameters
from kfp_osft.shared.publish import (
    file_digest,
    fingerprint,
    read_manifest,
    replacing_file,
    writable_folder,
    write_manifest,
)
from kfp_osft.shared.training_config import TrainingConfig

#: instructlab-training drops shorter samples (data_process.filter_samples_by_length).
SHORTEST_SAMPLE = 20
#: A change of what is written here makes earlier results stale.
_FORMAT = 1
_ROWS_AT_ONCE = 512
_SECONDS_BETWEEN_PROGRESS = 10


class Preprocessed(NamedTuple):
    """What preprocess gives to the next stages."""

    data_path: str
    num_samples: int
    training_config: str


def preprocess_dataset(dataset_path: str, pvc_path: str, training: Mapping[str, Any]) -> Preprocessed:
    """Checks all parameters, the base model and each row, and writes token ids and loss labels.

    The data goes to training_data_output_dir/data.jsonl (by default below the checkpoints): a line a sample with
    input_ids, labels, len and num_loss_counted_tokens, as mini-trainer reads them.

    Args:
        dataset_path: file or folder of rows with `messages`, or with input_ids and labels where
            training_use_processed_dataset is set.
        pvc_path: the workspace; checkpoints go to pvc_path/checkpoints/<fingerprint of the run>.
        training: the training parameters by name.

    Raises:
        InputError: anything that would fail, or train on nothing, later.
    """
    checked = check_parameters(training)
    for warning in checked.warnings:
        log(f"Warning: {warning}")
    osft = dict(checked.osft)
    workspace = writable_folder("pvc_path", pvc_path)
    given_model = osft["model_path"]
    osft["model_path"] = fetch_base_model(given_model, workspace)
    model = check_base_model(osft["model_path"])
    folder_of_model = model_folder(osft["model_path"])
    if folder_of_model is not None:
        osft["model_path"] = str(folder_of_model.absolute())
    check_target_patterns(osft["model_path"], osft.get("target_patterns", []))
    check_lr_scheduler(osft)

    data_output_dir = osft.pop("data_output_dir", None)
    is_processed = osft.pop("use_processed_dataset", False)
    files = dataset_files(Path(dataset_path))
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
    folder = writable_folder("training_data_output_dir",
                             data_output_dir or str(checkpoint_dir / "_internal_data_processing"))
    data_path, manifest_path = folder / "data.jsonl", folder / "manifest.json"
    if {data_path.resolve(), manifest_path.resolve()} & {file.resolve() for file in files}:
        raise InputError(f"training_data_output_dir={folder}: its data.jsonl or manifest.json is the dataset "
                         "itself, which would be overwritten; give another folder")
    if folder.resolve().is_relative_to(Path(dataset_path).resolve()):
        raise InputError(f"training_data_output_dir={folder}: lies in the dataset folder {dataset_path}, so that "
                         "the next run would read its data.jsonl as rows; give another folder")

    manifest = read_manifest(manifest_path, data_made_from)
    if manifest and data_path.is_file():
        report = manifest["report"]
        log(f"The data in {folder} was made from the same rows, model and parameters: used again")
    else:
        # Without its manifest nothing trusts the data, also when this process dies between the two files.
        manifest_path.unlink(missing_ok=True)
        tokenizer = load_tokenizer(osft["model_path"])
        with replacing_file(data_path) as unfinished:
            report = _write_samples(Path(dataset_path), unfinished, checked, tokenizer)
        write_manifest(manifest_path, data_made_from, report=report)
    _tell(report, osft["max_seq_len"])

    osft |= {
        "data_path": str(data_path),
        "data_output_dir": str(folder),
        "use_processed_dataset": True,
        "ckpt_output_dir": str(checkpoint_dir),
    }
    config = TrainingConfig(run, osft, checked.trainjob, checked.env,
                            {"base_model": given_model if is_oci_model(given_model) else osft["model_path"],
                             "dataset": dataset_path, **report})
    return Preprocessed(str(data_path), report["samples"], config.to_json())


def _write_samples(dataset: Path, target: Path, checked: CheckedParameters, tokenizer: Any) -> dict[str, int]:
    """Writes the samples that training keeps and returns the counts of the report."""
    osft = checked.osft
    if osft.get("use_processed_dataset"):
        samples = _processed_samples(dataset, len(tokenizer))
    else:
        samples = _tokenized_samples(dataset, ChatTokenizer(tokenizer), osft.get("unmask_messages", False))
    report = dict.fromkeys(("rows", "samples", "too_long", "too_short", "tokens", "loss_tokens", "longest"), 0)
    problems = Problems()
    with target.open("w", encoding="utf-8") as file:
        for place, sample in samples:
            length = len(sample.input_ids)
            report["rows"] += 1
            report["longest"] = max(report["longest"], length)
            if length >= osft["max_seq_len"]:
                report["too_long"] += 1
            elif length < SHORTEST_SAMPLE:
                report["too_short"] += 1
            elif length > osft["max_tokens_per_gpu"]:
                problems.add(f"{place}: has {length} tokens, more than "
                             f"training_max_tokens_per_gpu={osft['max_tokens_per_gpu']}; raise that, or lower "
                             "training_max_seq_len to drop such rows")
            elif not sample.num_loss_counted_tokens:
                problems.add(f"{place}: has no token to learn from")
            else:
                report["samples"] += 1
                report["tokens"] += length
                report["loss_tokens"] += sample.num_loss_counted_tokens
                file.write(_json_line(sample))
    problems.raise_if_any()
    if not report["samples"]:
        raise InputError(
            f"dataset {dataset}: no row is left to train on: {report['too_long']} of {report['rows']} have at least "
            f"training_max_seq_len={osft['max_seq_len']} tokens (the longest {report['longest']}), "
            f"{report['too_short']} have fewer than {SHORTEST_SAMPLE}")
    return report


def _json_line(sample: Sample) -> str:
    fields = {"labels": sample.labels, "input_ids": sample.input_ids, "len": len(sample.input_ids),
              "num_loss_counted_tokens": sample.num_loss_counted_tokens}
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _tokenized_samples(dataset: Path, tokenizer: ChatTokenizer, unmask_messages: bool) -> Iterator[tuple[str, Sample]]:
    """Tokenizes conversations; when rows are wrong, goes on reading to tell them all, and raises at the end."""
    problems = Problems()
    conversations = _conversations(dataset, unmask_messages, problems)
    started = last_told = time.monotonic()
    done = 0
    while batch := list(islice(conversations, _ROWS_AT_ONCE)):
        try:
            samples = tokenizer.samples(batch)
        except InputError:
            for conversation in batch:
                try:
                    tokenizer.samples([conversation])
                except InputError as error:
                    problems.add(str(error))
            continue
        done += len(batch)
        yield from zip((conversation.place for conversation in batch), samples, strict=True)
        if time.monotonic() - last_told > _SECONDS_BETWEEN_PROGRESS:
            last_told = time.monotonic()
            log(f"Tokenized {done:,} rows, {done / (last_told - started):,.0f} rows/s")
    problems.raise_if_any()
    if not done:
        raise InputError(f"dataset {dataset} has no rows")


def _conversations(dataset: Path, unmask_messages: bool, problems: Problems) -> Iterator[Conversation]:
    for row in read_rows(dataset):
        try:
            messages = messages_of(row)
            roles = {message["role"] for message in messages}
            # instructlab-training: `unmask` and the pretraining role open all roles but the system's.
            unmask = PRETRAINING_ROLE in roles or is_unmasked(row, unmask_messages)
            messages = without_pretraining_role(messages)
            roles = {message["role"] for message in messages}
            learnt = roles - {"system"} if unmask else roles & {"assistant"}
            if not learnt:
                raise InputError(f"{row.place}: has no assistant turn to learn from; its roles are "
                                 f"{', '.join(sorted(roles)) or 'none'}")
        except InputError as error:
            problems.add(str(error))
            continue
        yield Conversation(row.place, messages, frozenset(learnt))


def _processed_samples(dataset: Path, vocabulary: int) -> Iterator[tuple[str, Sample]]:
    """Checks rows that somebody else tokenized."""
    problems = Problems()
    rows = 0
    for row in read_rows(dataset):
        rows += 1
        problem = _processed_problem(row, vocabulary)
        if problem:
            problems.add(f"{row.place}: {problem}")
        else:
            yield row.place, Sample(row.values["input_ids"], row.values["labels"])
    problems.raise_if_any()
    if not rows:
        raise InputError(f"dataset {dataset} has no rows")


def _processed_problem(row: Row, vocabulary: int) -> str | None:
    for field in ("input_ids", "labels"):
        values = row.values.get(field)
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            return f"'{field}' is missing or no list of integers (training_use_processed_dataset is set)"
    ids, labels = row.values["input_ids"], row.values["labels"]
    if len(ids) != len(labels):
        return f"has {len(ids)} input_ids and {len(labels)} labels"
    if any(not 0 <= token < vocabulary for token in ids):
        return f"an id of input_ids is not in the model's vocabulary of {vocabulary}"
    if any(label != NO_LOSS and not 0 <= label < vocabulary for label in labels):
        return f"a label is neither {NO_LOSS} nor in the model's vocabulary of {vocabulary}"
    return None


def _tell(report: Mapping[str, int], max_seq_len: int) -> None:
    log(f"Rows: {report['rows']:,} read, {report['samples']:,} to train on, {report['too_long']:,} dropped with "
        f"{max_seq_len} tokens or more, {report['too_short']:,} dropped with fewer than {SHORTEST_SAMPLE}")
    log(f"Tokens: {report['tokens']:,}, {report['loss_tokens'] / report['tokens']:.0%} of them with loss, "
        f"the longest row {report['longest']:,}")
