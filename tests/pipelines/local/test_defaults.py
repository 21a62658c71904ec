import json
import math
from pathlib import Path

import pytest

from helpers.tiny_model import write_chat_rows
from kfp_osft.pipelines.local.defaults import FEWEST_STEPS, batch_size, choose_defaults, longest_row
from kfp_osft.stages.preprocess.training_data import preprocess_dataset


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("rows", [20, 32, 200, 1000, 2559, 100_000])
def test_a_training_has_at_least_twenty_steps_and_no_smaller_batches_than_that_needs(rows, epochs):
    batch = batch_size(rows, epochs)
    assert epochs * math.ceil(rows / batch) >= FEWEST_STEPS
    assert batch == 128 or epochs * rows / (2 * batch) < FEWEST_STEPS


def test_two_hundred_rows_of_a_small_model_on_a_cpu(tmp_path, tiny_model):
    rows = write_chat_rows(tmp_path / "rows.jsonl", 200)
    chosen = choose_defaults({}, rows, 200, False, tiny_model, on_gpu=False)

    assert chosen.parameters == {
        "training_effective_batch_size": 8,
        "training_max_seq_len": 256,
        "training_max_tokens_per_gpu": 2048,
        "training_learning_rate": 3e-5,
    }
    assert chosen.lines[0] == "batch size 8, so that 200 rows make about 25 steps"


def test_nothing_that_is_given_is_chosen(chat_rows, tiny_model):
    given = {
        "training_effective_batch_size": 4,
        "training_max_seq_len": 100,
        "training_max_tokens_per_gpu": 512,
        "training_learning_rate": 1e-3,
    }
    assert choose_defaults(given, chat_rows, 32, False, tiny_model, on_gpu=False) == ({}, [])


@pytest.mark.parametrize(
    ("given", "held_out", "batch"),
    [
        ({"dataset_subset": 40}, False, 2),
        ({"training_validation_split": 0.5}, False, 4),
        ({"training_validation_split": 0.5}, True, 8),
        ({"training_num_epochs": 4}, False, 32),
    ],
)
def test_the_batch_goes_by_the_rows_that_are_trained_on(chat_rows, tiny_model, given, held_out, batch):
    chosen = choose_defaults(given, chat_rows, 200, held_out, tiny_model, on_gpu=False)
    assert chosen.parameters["training_effective_batch_size"] == batch


def test_the_longest_row_fits_and_is_not_dropped(tmp_path, tiny_model):
    rows = write_chat_rows(tmp_path / "rows.jsonl", 50)
    turns = [{"role": "user", "content": "Tell"}, {"role": "assistant", "content": "Lima, Peru. " * 60}]
    with rows.open("a") as file:
        file.write(json.dumps({"messages": turns}) + "\n")
    chosen = choose_defaults({}, rows, 51, False, tiny_model, on_gpu=False).parameters

    preprocess_dataset(str(rows), str(tmp_path / "pvc"), {"training_base_model": str(tiny_model), **chosen})

    report = json.loads(next(tmp_path.rglob("report.json")).read_text())
    assert report["samples"] == 51
    assert report["longest"] < chosen["training_max_seq_len"] < 4 * report["longest"]


def test_without_a_tokenizer_file_bytes_are_an_upper_limit(chat_rows, tiny_model, tmp_path: Path):
    assert longest_row(chat_rows, tmp_path) > longest_row(chat_rows, tiny_model)


def test_tokenized_rows_are_as_long_as_they_are(tmp_path, tiny_model):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"input_ids": [1] * 300, "labels": [1] * 300}))
    assert 300 <= longest_row(rows, tiny_model) <= 800


def test_a_token_limit_that_is_given_holds_for_the_rows_too(chat_rows, tiny_model):
    chosen = choose_defaults({"training_max_tokens_per_gpu": 100}, chat_rows, 32, False, tiny_model, on_gpu=False)
    assert chosen.parameters["training_max_seq_len"] == 101
