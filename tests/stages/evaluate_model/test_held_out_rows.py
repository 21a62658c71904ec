"""Rows become the same samples whether they are conversations or were tokenized before."""

import json

import pytest

from kfp_osft.shared.model.loss import loaded_model
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.evaluate_model.held_out_rows import held_out_samples, last_answer
from kfp_osft.stages.preprocess.training_data import preprocess_dataset


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    with loaded_model(tiny_model) as (_, tokenizer):
        return tokenizer


def test_rows_that_preprocess_held_out_are_the_same_samples_as_the_conversations(
    tokenizer, tiny_model, chat_rows, tmp_path
):
    training = {"training_base_model": str(tiny_model), "training_max_tokens_per_gpu": 1024}
    folder = tmp_path / "data"
    preprocess_dataset(
        str(chat_rows), str(tmp_path / "pvc"), {**training, "training_data_output_dir": str(folder)}, None
    )

    tokenized = held_out_samples(folder / "data.jsonl", tokenizer, 1000)
    conversations = held_out_samples(chat_rows, tokenizer, 1000)

    assert tokenized == conversations and len(tokenized) == 32


def test_the_last_answer_is_what_the_assistant_says_last(tokenizer, tmp_path):
    rows = tmp_path / "rows.jsonl"
    turns = [("user", "Peru?"), ("assistant", "Lima."), ("user", "And Chile?"), ("assistant", "Santiago.")]
    rows.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    (sample,) = held_out_samples(rows, tokenizer, 5)
    prompt, answer = last_answer(sample)
    assert tokenizer.decode(answer) == "Santiago.<|im_end|>"
    assert tokenizer.decode(prompt).endswith("And Chile?<|im_end|>\n<|im_start|>assistant\n")


def test_fewer_rows_are_spread_over_the_whole_dataset(tokenizer, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"Number {number}?", "completion": str(number)}) + "\n" for number in range(10))
    )
    samples = held_out_samples(rows, tokenizer, 4)
    answers = [tokenizer.decode(last_answer(sample)[1], skip_special_tokens=True) for sample in samples]
    assert answers == ["0", "3", "5", "8"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "x"}, "has no known format; it has 'text'"),
        ({"messages": [{"role": "user", "content": "Hello?"}]}, "has no assistant turn to learn from"),
        ({"input_ids": [1, 2], "labels": [1]}, "row 1: input_ids and labels are not two lists of the same length"),
        ({"input_ids": [1, 99999], "labels": [1, 2]}, "row 1: an id in input_ids is outside the model's vocabulary"),
        ({"input_ids": [1, 2], "labels": [-100, -100]}, "none of the 1 rows has an assistant turn to measure"),
    ],
)
def test_rows_without_an_answer_are_refused(tokenizer, tmp_path, row, problem):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=problem):
        held_out_samples(tmp_path / "rows.jsonl", tokenizer, 5)


def test_a_tokenized_row_without_labels_is_named_wherever_it_is(tokenizer, tmp_path):
    rows = [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [1, 2]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="row 2: input_ids and labels are not two lists"):
        held_out_samples(tmp_path / "rows.jsonl", tokenizer, 5)
