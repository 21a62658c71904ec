import json
import shutil
from pathlib import Path

import pytest

from helpers.preprocess_rows import ANSWER, IDS, QUESTION, samples_of, tokens


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_processed_dataset_is_taken_as_it_is(run, dataset, form: str):
    rows = [
        tokens(len=30, num_loss_counted_tokens=20, other="x"),
        tokens(labels=IDS, len=None),
        tokens(input_ids=IDS[:19], labels=IDS[:19]),
    ]
    path = dataset(*rows)
    if form == "parquet":
        import pyarrow
        from pyarrow import parquet

        path = path.with_suffix(".parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    result = run(path, use_processed_dataset=True, max_dropped_share=0.5)

    assert samples_of(result) == [
        {"labels": tokens()["labels"], "input_ids": IDS, "len": 30, "num_loss_counted_tokens": 20},
        {"labels": IDS, "input_ids": IDS, "len": 30, "num_loss_counted_tokens": 29},
    ]
    assert json.loads(result.training_config)["about"]["too_short"] == 1


def test_a_processed_dataset_needs_no_chat_template(run, dataset, model: Path):
    (model / "chat_template.jinja").unlink()

    assert run(dataset(tokens()), base_model=str(model), use_processed_dataset=True).num_samples == 1


def test_what_was_written_can_be_given_as_a_processed_dataset(run, chat_rows: Path, tmp_path: Path):
    first = Path(shutil.copy(run(chat_rows).data_path, tmp_path / "first.jsonl"))

    assert Path(run(first, use_processed_dataset=True).data_path).read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [QUESTION, ANSWER]},
            "'input_ids' is missing or not a list of integers (training_use_processed_dataset is set)",
        ),
        ({"input_ids": IDS}, "'labels' is missing or not a list of integers (training_use_processed_dataset is set)"),
        (tokens(labels=None), "'labels' is missing or not a list of integers (training_use_processed_dataset is set)"),
        (tokens(input_ids="5 6 7"), "'input_ids' is missing or not a list of integers"),
        (tokens(input_ids=[*IDS[:-1], 1.5]), "'input_ids' is missing or not a list of integers"),
        (tokens(input_ids=[*IDS[:-1], True]), "'input_ids' is missing or not a list of integers"),
        (tokens(labels=[*IDS[:-1], None]), "'labels' is missing or not a list of integers"),
        (tokens(labels=IDS[:-1]), "has 30 input_ids and 29 labels"),
        (tokens(input_ids=[*IDS[:-1], 100_000]), "an id in input_ids is outside the model's vocabulary of "),
        (tokens(input_ids=[*IDS[:-1], -1]), "an id in input_ids is outside the model's vocabulary of "),
        (tokens(labels=[*IDS[:-1], 100_000]), "a label is neither -100 nor in the model's vocabulary of "),
        (tokens(labels=[*IDS[:-1], -1]), "a label is neither -100 nor in the model's vocabulary of "),
        (tokens(input_ids=[], labels=[]), "has no token"),
        (tokens(len=31), "'len' is 31, but input_ids and labels give 30"),
        (tokens(len="30"), "'len' is a string, expected an integer"),
        (tokens(len=30.0), "'len' is a number, expected an integer"),
        (tokens(num_loss_counted_tokens=30), "'num_loss_counted_tokens' is 30, but input_ids and labels give 20"),
        (
            tokens(labels=IDS, num_loss_counted_tokens=30),
            "'num_loss_counted_tokens' is 30, but input_ids and labels give 29",
        ),
        (tokens(labels=[-100] * 30), "has no token to learn from"),
        # A causal model predicts nothing for the first token.
        (tokens(labels=[5] + [-100] * 29), "has no token to learn from"),
    ],
)
def test_a_processed_row_that_cannot_be_trained_on_is_reported(error_of, dataset, row: dict, message: str):
    assert error_of(dataset(tokens(), row), use_processed_dataset=True).startswith(f"rows.jsonl, row 2: {message}")


def test_labels_that_differ_from_their_tokens_give_a_warning(run, dataset, capsys: pytest.CaptureFixture[str]):
    run(dataset(tokens(), tokens(labels=[*IDS[1:], -100])), use_processed_dataset=True)

    assert (
        "Warning: 1 row: a label differs from the token at its position; the trainer shifts labels itself "
        "(rows.jsonl, row 2)"
    ) in capsys.readouterr().out.splitlines()


def test_a_processed_dataset_that_changes_later_changes_nothing_that_was_checked(run, dataset):
    source = dataset(tokens())
    result = run(source, use_processed_dataset=True)
    before = Path(result.data_path).read_bytes()

    with source.open("r+") as file:
        file.write('{"input_ids": [99999999')

    assert Path(result.data_path).read_bytes() == before
