"""Raw documents become tokens as training_hub's pretraining mode makes them."""

import json
from pathlib import Path

import pytest

from helpers.preprocess_rows import samples_of, tokens_of

TEXTS = [
    "Vienna is the capital of Austria.",
    "It is the seat of the government, and a city of music. " * 40,
    "",
    "A short one.",
]
BLOCKS = {"block_size": 32, "max_tokens_per_gpu": 64}


def test_the_tokens_are_those_of_training_hub(run, dataset, tiny_model: Path, tmp_path: Path):
    from kfp_osft.shared.model.torchvision import hide_broken_torchvision

    hide_broken_torchvision()
    from instructlab.training.data_process import process_documents_for_pretraining

    rows = dataset(*({"document": text} for text in TEXTS))
    process_documents_for_pretraining(str(rows), str(tmp_path / "theirs"), str(tiny_model), num_cpu_procs=1)
    theirs = [json.loads(line) for line in (tmp_path / "theirs" / "data.jsonl").read_text().splitlines()]

    result = run(rows, **BLOCKS)

    # Neither the length of a row nor training_max_seq_len drops a document.
    assert tokens_of(result) == [row["input_ids"] for row in theirs]
    assert all(sample["labels"] == sample["input_ids"] for sample in samples_of(result))


def test_the_training_gets_blocks_and_its_steps_are_counted_in_blocks(run, dataset):
    result = run(
        dataset(*({"text": text} for text in TEXTS)),
        effective_batch_size=2,
        validation_every="2",
        **{
            **BLOCKS,
            "validation_split": 0.34,
        },
    )
    config = json.loads(result.training_config)
    report = json.loads((Path(result.data_path).parent / "report.json").read_text())

    assert config["osft"] | {"is_pretraining": True, "block_size": 32, "validation_frequency": 2} == config["osft"]
    blocks = -(-sum(map(len, tokens_of(result))) // 32)
    assert report["training"]["steps"] == -(-blocks // 2)
    assert report["left_out"] + report["validation"]["left_out"] == 1
    assert report["samples"] + report["validation"]["samples"] == 3


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"block_size": 65}, "training_block_size=65 is more than training_max_tokens_per_gpu=64"),
        ({"unmask_messages": True}, "training_unmask_messages does not apply"),
        ({"use_processed_dataset": True}, "training_use_processed_dataset does not apply"),
        ({"dataset_columns": "user=q,assistant=a"}, "dataset_columns names no document"),
        ({"dataset_columns": "document=body"}, "has no column body with a document"),
        ({}, "has no column document or text with a document .* it has 'content'; name it by dataset_columns=document"),
    ],
)
def test_what_is_not_for_documents_is_refused(error_of, dataset, parameters: dict, told: str):
    import re

    assert re.search(told, error_of(dataset({"content": "A text."}), **{**BLOCKS, **parameters}))


def test_a_document_that_is_no_text_is_named(error_of, dataset):
    assert "rows.jsonl, row 2: 'document' is a list" in error_of(
        dataset({"document": "A text."}, {"document": ["A", "text"]}), **BLOCKS
    )


def test_a_document_column_without_a_block_size_is_refused(error_of, dataset):
    told = error_of(dataset({"body": "A text."}), dataset_columns="document=body")

    assert told == "dataset_columns names a document, which needs training_block_size"
