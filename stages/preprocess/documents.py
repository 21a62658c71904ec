"""Raw documents, which a model learns to continue: mini-trainer joins them and cuts them into blocks (its pretraining
mode; instructlab-training, data_process.process_documents_for_pretraining, makes their tokens in training_hub)."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.parameters.checking import CheckedParameters
from kfp_osft.shared.parameters.dataset_columns import DOCUMENT
from kfp_osft.shared.reporting.errors import InputError, kind_of
from kfp_osft.shared.rows.chat_tokens import Sample
from kfp_osft.shared.rows.columns import columns_in_words
from kfp_osft.shared.rows.files import Row, read_rows
from kfp_osft.shared.rows.messages import Problems, Warnings

# training_hub's own, and what most datasets call it.
_COLUMNS = (DOCUMENT, "text")


def document_columns(path: Path, checked: CheckedParameters) -> dict[str, str]:
    """Where the documents of a dataset are, as dataset_columns says it, checked in its first row.

    Raises:
        InputError: the dataset has no rows, or no such column; a parameter that is for conversations only.
    """
    osft, columns = checked.osft, checked.data.get("columns") or {}
    block = f"training_block_size={osft['block_size']}"
    if osft["block_size"] > osft["max_tokens_per_gpu"]:
        raise InputError(
            f"{block} is more than training_max_tokens_per_gpu={osft['max_tokens_per_gpu']}, so that no block fits on "
            "a GPU; lower it, or raise that"
        )
    for key in ("use_processed_dataset", "unmask_messages"):
        if osft.get(key):
            raise InputError(f"{block} trains on raw documents, to which training_{key} does not apply; omit one")
    if columns and DOCUMENT not in columns:
        raise InputError(f"{block} trains on raw documents; dataset_columns names no {DOCUMENT}, as {DOCUMENT}=column")
    row = next(read_rows(path), None)
    if row is None:
        raise InputError(f"dataset {path} has no rows")
    names = [columns[DOCUMENT]] if columns else _COLUMNS
    column = next((name for name in names if name in row.values), None)
    if column is None:
        raise InputError(
            f"{row.place}: has no column {' or '.join(names)} with a document ({block}); it has "
            f"{columns_in_words(row.values)}; name it by dataset_columns={DOCUMENT}=column"
        )
    return {DOCUMENT: column}


def documents(
    rows: Iterable[Row], tokenizer: Any, problems: Problems, left_out: Warnings
) -> Iterator[tuple[str, Sample]]:
    """Yields the place and the tokens of each document: as the tokenizer begins a text, and with the end of it.

    Args:
        rows: with the field document.
        tokenizer: a transformers tokenizer.
        problems: collects rows that hold no text.
        left_out: counts empty documents.

    Raises:
        InputError: the tokenizer has no token for the end of a text.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("training_block_size: the base model's tokenizer has no eos_token to end a document with")
    for row in rows:
        text = row.values.get(DOCUMENT)
        if not text:
            left_out.add("the document is empty", row.place)
        elif not isinstance(text, str):
            problems.add(f"{row.place}: '{DOCUMENT}' is {kind_of(text)}, expected a text")
        else:
            # Not verbose: it would warn of texts longer than the model's context, which blocks are not.
            ids = tokenizer.encode(text, verbose=False)
            if ids[-1:] != [tokenizer.eos_token_id]:
                ids.append(tokenizer.eos_token_id)
            if len(ids) == 1:
                left_out.add("the document is empty", row.place)
            else:
                yield row.place, Sample(ids, [(0, len(ids))])


def blocks_of(report: Mapping[str, Any], osft: Mapping[str, Any]) -> int:
    """The samples that mini-trainer makes of so many tokens: blocks of documents, the last one perhaps shorter."""
    return -(-report["tokens"] // osft["block_size"]) if osft.get("block_size") else report["samples"]
