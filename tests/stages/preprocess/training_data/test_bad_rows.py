import json
import shutil
from pathlib import Path

import pytest

from helpers.preprocess_rows import ANSWER, QUESTION, answer_of, tokens_of
from kfp_osft.shared.reporting.errors import InputError


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "dataset file {path} is empty"),
        ([{"text": "x"}], "rows.jsonl, row 1: has no known format; it has 'text'; known are messages (chat); "),
        (
            [[QUESTION, ANSWER], {"prompt": "x", "completion": "y"}],
            "rows.jsonl, row 2: has the format prompt and completion, the rows before it are messages (chat); a "
            "dataset holds one format",
        ),
        (
            [{"messages": [QUESTION, ANSWER], "instruction": "x", "output": "y"}],
            "rows.jsonl, row 1: has the fields of more than one format (messages (chat); instruction and output "
            "(Alpaca)); keep those of one",
        ),
        (
            [{"input_ids": [1], "labels": [1]}],
            "rows.jsonl, row 1: holds tokens already (input_ids, labels): set "
            "training_use_processed_dataset to train on them",
        ),
        (
            [[QUESTION, ANSWER], [QUESTION, {"role": "assistant", "content": None}]],
            "rows.jsonl, row 2: messages[1]: 'content' is null, expected a string",
        ),
        (
            [[QUESTION, {"role": "assistant", "content": [3]}]],
            "rows.jsonl, row 1: messages[1]: 'content'[0] is a number; only text is trained on",
        ),
        (
            [[QUESTION, ANSWER], [QUESTION]],
            "rows.jsonl, row 2: has no assistant turn to learn from; its roles are user",
        ),
        (
            [[{"role": "system", "content": "Be kind."}, QUESTION]],
            "rows.jsonl, row 1: has no assistant turn to learn from; its roles are system, user",
        ),
        (
            [{"messages": [{"role": "system", "content": "Be kind."}], "unmask": True}],
            "rows.jsonl, row 1: has no assistant turn to learn from; its roles are system",
        ),
        (
            [[{"role": "pretraining", "content": "no turn"}]],
            "rows.jsonl, row 1: has no assistant turn to learn from; its roles are none",
        ),
        ([[QUESTION, ANSWER | {"content": "\ud83d"}]], "rows.jsonl, row 1: is not text: "),
        (
            [[QUESTION, answer_of(1)], [QUESTION, answer_of(2)]],
            "dataset {path}: no row is left to train on; dropped were 2 with fewer than 20 tokens (rows.jsonl, row 1; "
            "rows.jsonl, row 2); the longest row has 19",
        ),
        (
            [[QUESTION, answer_of(500)], [QUESTION, answer_of(2)]],
            "dataset {path}: no row is left to train on; dropped were 1 with 256 tokens or more (training_max_seq_len) "
            "(rows.jsonl, row 1); 1 with fewer than 20 tokens (rows.jsonl, row 2); the longest row has ",
        ),
    ],
)
def test_rows_that_cannot_be_trained_on_are_reported(error_of, dataset, rows: list, message: str):
    path = dataset(*rows)

    assert error_of(path).startswith(message.format(path=path))


def test_a_missing_dataset_is_reported(error_of, tmp_path: Path):
    assert error_of(tmp_path / "no.jsonl") == f"dataset {tmp_path / 'no.jsonl'} does not exist"


def test_bad_rows_are_reported_together(error_of, dataset):
    good = [QUESTION, ANSWER]
    rows = [good] * 1500
    for index in (3, 600, 1400):
        rows[index] = [QUESTION]
    # Of the same batch: the template shows each by itself.
    for index in (700, 701):
        rows[index] = [QUESTION, ANSWER | {"content": "\ud83d"}]

    lines = error_of(dataset(*rows)).splitlines()

    assert [line.split(":")[0] for line in lines] == ["rows.jsonl, row 4", "rows.jsonl, row 701"]
    assert lines[0].endswith("(3 such rows: rows.jsonl, row 4; rows.jsonl, row 601; rows.jsonl, row 1401)")
    assert lines[1].endswith("(2 such rows: rows.jsonl, row 701; rows.jsonl, row 702)")


def test_many_rows_with_the_same_fault_are_one_line_with_the_first_ten_and_their_count(error_of, dataset):
    assert error_of(dataset(*[[QUESTION]] * 30)) == (
        "rows.jsonl, row 1: has no assistant turn to learn from; its roles are user (30 such rows: "
        + "; ".join(f"rows.jsonl, row {row}" for row in range(1, 11))
        + "; and 20 more)"
    )


def test_a_row_too_long_for_a_gpu_is_reported(error_of, run, dataset):
    rows = dataset([QUESTION, ANSWER], [QUESTION, answer_of(60)], [QUESTION, ANSWER])
    length = max(len(tokens) for tokens in tokens_of(run(rows)))
    shutil.rmtree(Path(run(rows).data_path).parents[3])

    assert error_of(rows, max_tokens_per_gpu=length - 1) == (
        f"rows.jsonl, row 2: has {length} tokens, more than training_max_tokens_per_gpu={length - 1}; raise "
        "that, or lower training_max_seq_len to drop such rows"
    )
    assert run(rows, max_tokens_per_gpu=length).num_samples == 3


def test_a_row_that_is_dropped_may_be_too_long_for_a_gpu(run, dataset):
    rows = dataset([QUESTION, ANSWER], [QUESTION, answer_of(60)])

    assert run(rows, max_seq_len=50, max_tokens_per_gpu=50, max_dropped_share=0.5).num_samples == 1


def test_more_dropped_rows_than_allowed_are_reported_with_the_first_ten(error_of, run, dataset):
    rows = dataset(*[[QUESTION, ANSWER]] * 4, *[[QUESTION, answer_of(2)]] * 12)

    assert error_of(rows, max_dropped_share=0.74) == (
        f"dataset {rows}: 12 of 16 rows are dropped (75%), more than training_max_dropped_share=0.74: 12 with fewer "
        "than 20 tokens ("
        + "; ".join(f"rows.jsonl, row {row}" for row in range(5, 15))
        + "; and 2 more); the longest row has 32"
    )
    assert run(rows, max_dropped_share=0.75).num_samples == 4


def test_a_share_of_0_is_no_error_if_nothing_is_dropped(run, dataset):
    assert run(dataset([QUESTION, ANSWER]), max_dropped_share=0.0).num_samples == 1


def test_a_rerun_that_allows_fewer_dropped_rows_fails_and_keeps_the_data(run, dataset):
    rows = dataset([QUESTION, ANSWER], [QUESTION, answer_of(2)])
    first = run(rows, max_dropped_share=0.5)

    with pytest.raises(InputError, match="more than training_max_dropped_share=0.49: 1 with fewer than 20 tokens"):
        run(rows, max_dropped_share=0.49)
    assert run(rows, max_dropped_share=0.5) == first


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION["content"], "completion": ANSWER["content"], "label": False},
        {"prompt": QUESTION["content"], "completion": " "},
    ],
)
def test_a_dataset_of_which_nothing_is_to_be_learnt_is_reported(error_of, dataset, row: dict):
    path = dataset(row, row)

    assert error_of(path).startswith(f"dataset {path}: no row is left to train on; 2 rows: ")


def test_rows_that_say_that_they_are_not_to_be_learnt_do_not_count_as_dropped(run, dataset):
    row = {"prompt": QUESTION["content"], "completion": ANSWER["content"]}

    result = run(dataset(row | {"label": True}, *[row | {"label": False}] * 3), max_dropped_share=0.0)

    report = json.loads((Path(result.data_path).parent / "report.json").read_text())
    assert (result.num_samples, report["rows"], report["left_out"]) == (1, 4, 3)


def test_a_model_without_a_chat_template_is_reported(error_of, chat_rows: Path, model: Path):
    (model / "chat_template.jinja").unlink()

    assert error_of(chat_rows, base_model=str(model)) == (
        f"training_base_model={model}: its tokenizer has no chat template; give an instruction-tuned model, "
        "or add chat_template.jinja to the model folder"
    )


def test_a_conversation_that_the_template_rejects_is_reported_with_its_row(error_of, dataset, model: Path):
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + template
    )
    system = {"role": "system", "content": "Be kind."}

    assert error_of(
        dataset([QUESTION, ANSWER], [system, QUESTION, ANSWER], [system, QUESTION, ANSWER]), base_model=str(model)
    ) == (
        "rows.jsonl, row 2: the model's chat template rejects this conversation: no system (2 such rows: "
        "rows.jsonl, row 2; rows.jsonl, row 3)"
    )
