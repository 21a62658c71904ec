"""Answers in batches are those that transformers generates one by one."""

import pytest

from kfp_osft.shared.model.loss import loaded_model
from kfp_osft.stages.evaluate_model.greedy_answers import greedy_answers

PROMPTS = ["Peru?", "What is the capital of Finland? Tell me at once.", "Is Oslo the capital of Norway?", "Yes."]


@pytest.fixture(scope="module")
def loaded(changed):
    with loaded_model(changed) as (model, tokenizer):
        yield model, tokenizer


def prompts_of(tokenizer):
    return [tokenizer(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")["input_ids"] for text in PROMPTS]


def test_padding_and_order_change_nothing(loaded):
    import torch

    model, tokenizer = loaded
    prompts, lengths = prompts_of(tokenizer), [3, 12, 7, 12]
    for prompt, length, answer in zip(
        prompts, lengths, greedy_answers(model, tokenizer, prompts, lengths), strict=True
    ):
        alone = model.generate(torch.tensor([prompt]), max_new_tokens=length, do_sample=False)[0, len(prompt) :]
        ended = alone.tolist().index(tokenizer.eos_token_id) if tokenizer.eos_token_id in alone else len(alone)
        assert answer == alone.tolist()[:ended]


def test_an_answer_ends_before_the_end_token(loaded):
    model, tokenizer = loaded
    prompts = prompts_of(tokenizer)
    answers = greedy_answers(model, tokenizer, prompts, [8] * len(prompts))
    first = answers[0][2]
    model.generation_config.eos_token_id = [first]
    try:
        assert greedy_answers(model, tokenizer, prompts, [8] * len(prompts))[0] == answers[0][: answers[0].index(first)]
    finally:
        model.generation_config.eos_token_id = tokenizer.eos_token_id


def test_sampling_and_penalties_of_the_models_own_config_do_not_apply(loaded):
    model, tokenizer = loaded
    prompts = prompts_of(tokenizer)
    plain = greedy_answers(model, tokenizer, prompts, [8] * len(prompts))
    own = model.generation_config
    own.repetition_penalty, own.do_sample, own.temperature = 5.0, True, 3.0
    try:
        assert greedy_answers(model, tokenizer, prompts, [8] * len(prompts)) == plain
        assert model.generation_config is own
    finally:
        own.repetition_penalty, own.do_sample, own.temperature = 1.0, False, 1.0
