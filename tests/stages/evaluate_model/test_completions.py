"""What a benchmark asks of a served model, compared with transformers."""

import pytest

from kfp_osft.stages.evaluate_model.completions import Completions, Refused
from kfp_osft.stages.evaluate_model.greedy_answers import greedy_answers

TEXTS = ["The capital of Peru is Lima", "Oslo", "What is the capital of Finland? Tell me at once, and take the train."]


@pytest.fixture
def answer(loaded):
    """The choices of one request."""
    completions = Completions(*loaded)
    return lambda **request: completions.answer(request)[0]


def likelihoods_of(loaded, ids):
    import torch

    with torch.inference_mode():
        return loaded[0](torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("as_ids", [False, True], ids=["texts", "token ids"])
def test_echoed_log_probabilities_are_those_of_transformers_for_each_prompt_of_a_batch(loaded, answer, as_ids):
    rows = [loaded[1](text)["input_ids"] for text in TEXTS]
    choices = answer(prompt=rows if as_ids else TEXTS, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234)

    assert [choice["index"] for choice in choices] == [0, 1, 2]
    for choice, ids, text in zip(choices, rows, TEXTS, strict=True):
        expected, found = likelihoods_of(loaded, ids), choice["logprobs"]
        next_id = int(expected[-1].argmax())
        assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
        for at, token in enumerate([*ids, next_id][1:]):
            assert found["token_logprobs"][at + 1] == pytest.approx(expected[at, token].item(), abs=1e-4)
            assert max(found["top_logprobs"][at + 1].values()) == pytest.approx(expected[at].max().item(), abs=1e-4)
        # By this lm-eval sees whether a token is the model's own choice.
        assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())
        assert choice["text"].startswith(text) and "".join(found["tokens"][:-1]) == text
        assert found["text_offset"][1] == len(found["tokens"][0])


def test_a_token_before_each_text_counts_as_context_and_is_not_echoed(loaded, monkeypatch):
    model, tokenizer = loaded
    begin = tokenizer("<|im_start|>")["input_ids"]

    class WithBegin:
        decode = tokenizer.decode

        def __call__(self, text, add_special_tokens=True):
            ids = tokenizer(text)["input_ids"]
            return {"input_ids": [*begin, *ids] if add_special_tokens else ids}

    asked = {"max_tokens": 1, "logprobs": 1, "echo": True}
    ((choice,), usage) = Completions(model, WithBegin()).answer({"prompt": TEXTS[0], **asked})
    ((own,), _) = Completions(model, WithBegin()).answer({"prompt": f"<|im_start|>{TEXTS[0]}", **asked})

    ids = tokenizer(TEXTS[0])["input_ids"]
    expected = likelihoods_of(loaded, [*begin, *ids])
    assert choice["text"].startswith(TEXTS[0]) and len(choice["logprobs"]["tokens"]) == len(ids) + 1
    for at, token in enumerate(ids):
        assert choice["logprobs"]["token_logprobs"][at] == pytest.approx(expected[at, token].item(), abs=1e-4)
    # A text that brings the token does not get a second one.
    assert own["logprobs"]["token_logprobs"][1:] == pytest.approx(choice["logprobs"]["token_logprobs"], abs=1e-4)
    assert usage["prompt_tokens"] == len(ids) + 1


def test_a_continuation_is_what_transformers_generates_greedily(loaded, answer):
    model, tokenizer = loaded
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    expected = [
        tokenizer.decode(ids, skip_special_tokens=True) for ids in greedy_answers(model, tokenizer, rows, [12] * 3)
    ]
    assert [choice["text"] for choice in answer(prompt=TEXTS, max_tokens=12, temperature=0, stop=[])] == expected


def test_a_continuation_ends_before_a_stop_text_and_no_more_than_that_is_generated(loaded, monkeypatch):
    model, tokenizer = loaded
    completions = Completions(model, tokenizer)
    ((whole,), _) = completions.answer({"prompt": TEXTS[0], "max_tokens": 40})
    stop = whole["text"][len(whole["text"]) // 4 :][:5]

    ((cut,), usage) = completions.answer({"prompt": TEXTS[0], "max_tokens": 40, "stop": [stop, "never this"]})

    assert cut["text"] == whole["text"].partition(stop)[0] and cut["finish_reason"] == "stop"
    assert usage["completion_tokens"] < 40 and whole["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompt": "a", "temperature": 0.7}, "temperature can only be 0 here"),
        ({"prompt": "a", "n": 2}, "n can only be 1 here"),
        ({"prompt": "a", "stream": True}, "stream can only be False here"),
        ({"prompt": "a", "logprobs": 6, "max_tokens": 1}, "logprobs must be an integer of at least 0 and at most 5"),
        ({"prompt": "a", "logprobs": 1, "max_tokens": 2}, "only served with a max_tokens of at most 1"),
        ({"prompt": "a", "max_tokens": "2"}, "max_tokens must be an integer of at least 0"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens=0 needs echo or logprobs"),
        ({"prompt": "a", "stop": 3}, "stop must be a text"),
        ({"prompt": ""}, "prompt is empty"),
        ({}, "prompt must be"),
        ({"prompt": []}, "prompt must be"),
        ({"prompt": [["a"]]}, "prompt must be"),
        ({"prompt": [True]}, "prompt must be"),
        ({"prompt": [10**6]}, "token id outside the model's vocabulary"),
        ({"prompt": [-1]}, "token id outside the model's vocabulary"),
        ({"prompt": "train " * 600}, "maximum context length is 512 tokens, and the prompt with max_tokens has"),
    ],
)
def test_what_is_not_served_is_refused_with_400(answer, request_, message):
    with pytest.raises(Refused, match=message) as refused:
        answer(**request_)
    assert refused.value.status == 400
