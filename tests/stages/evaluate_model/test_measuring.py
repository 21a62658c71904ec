"""What is measured of one model."""

import json
import shutil

import pytest

from kfp_osft.shared.model import loss
from kfp_osft.stages.evaluate_model import measuring
from kfp_osft.stages.evaluate_model.general_texts import general_texts
from kfp_osft.stages.evaluate_model.measuring import HeldOutRows, measure

TEXTS = {"prose": ["Take the train to Vienna."], "code": ["def f(x):\n    return x\n"]}


def test_the_loss_is_that_of_the_assistants_words(tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    messages = [{"role": "user", "content": "Peru?"}, {"role": "assistant", "content": "The capital is Lima."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}))
    found = measure(tiny_model, [HeldOutRows("task", tmp_path / "rows.jsonl")], texts={}).rows["task"]

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    prompt = tokenizer("<|im_start|>user\nPeru?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    answer = tokenizer("The capital is Lima.<|im_end|>")["input_ids"]
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.item()
    assert found.loss == pytest.approx(expected, abs=1e-4)
    assert (found.tokens, found.rows, found.short_answers) == (len(answer), 1, 1)


def test_an_answer_matches_if_its_text_is_the_expected_one(tiny_model, tmp_path, monkeypatch):
    conversations = [
        [{"role": "user", "content": f"Number {number}?"}, {"role": "assistant", "content": answer}]
        for number, answer in enumerate(("one", "two", "three"))
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))

    def answers(model, tokenizer, prompts, lengths):
        # Of the expected length and four more, which a model that runs on would fill.
        ends = [len(tokenizer(f"{text}<|im_end|>")["input_ids"]) + 4 for text in ("one", "two", "three")]
        assert lengths == ends
        return [tokenizer(text)["input_ids"] for text in (" one\n", "two", "three times")]

    monkeypatch.setattr(measuring, "greedy_answers", answers)

    found = measure(tiny_model, [HeldOutRows("task", rows)], texts={}).rows["task"]

    assert (found.exact_match, found.short_answers) == (pytest.approx(2 / 3), 3)
    assert [(example["expected"], example["answer"]) for example in found.examples] == [
        ("one", "one"),
        ("two", "two"),
        ("three", "three times"),
    ]


def test_long_answers_are_not_compared_but_shown(tiny_model, chat_rows):
    found = measure(tiny_model, [HeldOutRows("task", chat_rows, answer_tokens=2, examples=3)], texts={}).rows["task"]
    assert (found.exact_match, found.short_answers, len(found.examples)) == (None, 0, 3)


def test_a_document_has_a_loss_but_no_prompt_and_so_no_answer(tiny_model, tmp_path):
    rows = [{"input_ids": ids, "labels": ids} for ids in ([5, 6, 7, 8], list(range(5, 60)))]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = measure(tiny_model, [HeldOutRows("task", tmp_path / "validation.jsonl")], texts={}).rows["task"]
    assert (found.tokens, found.rows, found.exact_match, found.examples) == (3 + 54, 2, None, [])


def test_what_was_measured_once_is_read_from_the_cache_and_only_what_is_new_is_measured(
    tiny_model, chat_rows, tmp_path, monkeypatch
):
    first, second = HeldOutRows("first", chat_rows, rows=3), HeldOutRows("second", chat_rows, rows=2)
    measured = []
    # What each measurement of losses ends in.
    monkeypatch.setattr(
        measuring,
        "sample_losses",
        lambda model, samples: measured.append(len(samples)) or loss.sample_losses(model, samples),
    )
    before = measure(tiny_model, [first], texts=TEXTS, cache=tmp_path / "cache")
    assert measured == [1, 1, 3]

    again = measure(shutil.copytree(tiny_model, tmp_path / "copy"), [first], texts=TEXTS, cache=tmp_path / "cache")
    assert again == before and measured == [1, 1, 3]

    with_more = measure(tiny_model, [first, second], texts=TEXTS, cache=tmp_path / "cache")
    assert list(with_more.rows) == ["first", "second"] and measured == [1, 1, 3, 2]


def test_another_model_or_other_rows_are_measured_anew(tiny_model, changed, chat_rows, tmp_path):
    rows = [HeldOutRows("first", chat_rows, rows=3)]
    before = measure(tiny_model, rows, texts=TEXTS, cache=tmp_path)
    after = measure(changed, rows, texts=TEXTS, cache=tmp_path)
    assert before.rows["first"].loss != after.rows["first"].loss and before.general_loss != after.general_loss
    more = measure(tiny_model, [HeldOutRows("first", chat_rows, rows=4)], texts=TEXTS, cache=tmp_path)
    assert more.rows["first"].rows == 4


def test_the_general_loss_is_the_mean_over_all_tokens(tiny_model):
    found = measure(tiny_model, texts=TEXTS)
    tokens = {kind: text.tokens for kind, text in found.texts.items()}
    total = sum(found.texts[kind].loss * tokens[kind] for kind in TEXTS)
    assert found.general_loss == pytest.approx(total / sum(tokens.values()))
    assert measure(tiny_model, texts={}).general_loss is None


def test_the_general_texts_are_of_several_kinds_and_some_thousand_tokens(tiny_model):
    with loss.loaded_model(tiny_model) as (_, tokenizer):
        tokens = sum(len(tokenizer(text)["input_ids"]) for texts in general_texts().values() for text in texts)
    assert len(general_texts()) == 5
    # Of the tiny model's tokenizer, which needs about twice as many as a real one.
    assert 6_000 < tokens < 14_000
