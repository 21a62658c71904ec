"""What a run on this computer takes where nothing is given: the contract's defaults are for GPUs and many rows."""

import contextlib
import heapq
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.pipelines.demo.example_model import MODEL_NAME
from kfp_osft.shared.model.folder import config_value, read_config
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.rows.files import read_rows

#: Steps that a training has at least, if it has as many rows: fewer hardly change a model.
FEWEST_STEPS = 20
_LARGEST_BATCH = 128
# Tokens at a time: on a CPU larger microbatches are not faster, and the logits of each token take memory.
_TOKENS_ON_CPU, _TOKENS_ON_GPU = 2048, 8192
_LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
# The longest rows by their characters are tokenized; what the chat template adds is left room for.
_ROWS_TOKENIZED, _TEMPLATE = 32, 1.25
# Up to this hidden size (models of about half a billion parameters) a model takes the rate at which the demo's model
# learnt three tasks and kept most (stages/launch_trainjob/choosing.md); larger ones take less.
_SMALL, _RATE_OF_SMALL, _RATE = 1024, 3e-5, 2e-5
#: What is said of the base model then.
EXAMPLE_MODEL = f"base model {MODEL_NAME}, the demo's small model, to try things out (--base-model takes yours)"
_PIPELINE_DEFAULTS = {parameter.name: parameter.pipeline_default for parameter in ALL_PARAMETERS}


class ChosenDefaults(NamedTuple):
    """Training parameters by name that were chosen, and sentences that say which and why."""

    parameters: dict[str, Any]
    lines: list[str]


def choose_defaults(
    given: Mapping[str, Any], dataset: Path, rows: int, held_out: bool, model: Path, on_gpu: bool
) -> ChosenDefaults:
    """Batch size, length limits and learning rate for a run, those of them that are not given.

    Args:
        given: training parameters by name.
        dataset: file or folder of the rows.
        rows: their number.
        held_out: whether other rows are held out, so that none of these are.
        model: folder of the base model, its weights aside.
        on_gpu: whether the training has a GPU.
    """
    chosen: dict[str, Any] = {}
    lines = []

    def value(name: str) -> Any:
        return {**_PIPELINE_DEFAULTS, **chosen, **given}[name]

    if "training_effective_batch_size" not in given:
        trained = min(rows, value("dataset_subset") or rows)
        if not held_out:
            trained -= round(trained * value("training_validation_split"))
        batch = batch_size(trained, value("training_num_epochs"))
        chosen["training_effective_batch_size"] = batch
        steps = value("training_num_epochs") * math.ceil(trained / batch)
        lines.append(f"batch size {batch}, so that {trained:,} rows make about {steps:,} steps")
    if "training_max_seq_len" not in given:
        longest = longest_row(dataset, model)
        most = config_value(read_config(model), "max_position_embeddings") or _LENGTHS[-1]
        fitting = [length for length in _LENGTHS if length > longest]
        chosen["training_max_seq_len"] = max(_LENGTHS[0], min(fitting[0] if fitting else _LENGTHS[-1], most))
        if "training_max_tokens_per_gpu" in given:
            limit = max(21, min(chosen["training_max_seq_len"], given["training_max_tokens_per_gpu"] + 1))
            chosen["training_max_seq_len"] = limit
        lines.append(f"at most {chosen['training_max_seq_len']:,} tokens a row (the longest has about {longest:,})")
    if "training_max_tokens_per_gpu" not in given:
        usual = _TOKENS_ON_GPU if on_gpu else _TOKENS_ON_CPU
        chosen["training_max_tokens_per_gpu"] = max(usual, value("training_max_seq_len"))
        lines.append(f"{chosen['training_max_tokens_per_gpu']:,} tokens at a time")
    if "training_learning_rate" not in given:
        hidden = config_value(read_config(model), "hidden_size")
        small = isinstance(hidden, int) and hidden <= _SMALL
        chosen["training_learning_rate"] = _RATE_OF_SMALL if small else _RATE
        lines.append(f"learning rate {chosen['training_learning_rate']:g} for {'a small' if small else 'this'} model")
    return ChosenDefaults(chosen, lines)


def batch_size(rows: int, epochs: int) -> int:
    """The largest power of two up to 128 with which the training has FEWEST_STEPS steps; 1 for few rows."""
    most = max(1, rows * epochs // FEWEST_STEPS)
    return min(_LARGEST_BATCH, 1 << (most.bit_length() - 1))


def longest_row(dataset: Path, model: Path) -> int:
    """About how many tokens the longest row has, from above: its texts' tokens, or bytes where the model has no
    tokenizer.json, and a quarter for the chat template."""
    longest = heapq.nlargest(_ROWS_TOKENIZED, map(_text, _values(dataset)), key=len)
    tokens = [len(text.encode()) for text in longest]
    with contextlib.suppress(Exception):  # tokenizers raises Exception itself
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        tokenizer.no_truncation()
        tokens = [len(encoding.ids) for encoding in tokenizer.encode_batch(longest)]
    return round(max(tokens, default=0) * _TEMPLATE) + 32


def _values(dataset: Path) -> Iterator[Any]:
    for row in read_rows(dataset):
        yield row.values


def _text(values: Any) -> str:
    ids = values.get("input_ids") if isinstance(values, dict) else None
    # A token each, whatever the tokenizer.
    return " a" * len(ids) if isinstance(ids, list) else json.dumps(values, ensure_ascii=False, default=str)
