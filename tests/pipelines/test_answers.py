"""What a model answers and how well it predicts a text."""

import math
import shutil
from pathlib import Path

import pytest

from kfp_osft.pipelines import example
from kfp_osft.pipelines.answers import answers, mean_loss
from kfp_osft.shared.train_script import hide_broken_torchvision
from tiny_model import make_tiny_model

QUESTIONS = ["What is the capital of Peru?", "Is Oslo the capital of Norway?"]
CHAT = [
    {"role": "user", "content": "What is the capital of Peru?"},
    {"role": "assistant", "content": "Lima."},
]
PROMPT = "<|im_start|>user\nWhat is the capital of Peru?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    hide_broken_torchvision()
    # Untied: with tied embeddings an untrained model repeats the token it was given, a special one.
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), tied=False)


@pytest.fixture(scope="module")
def indifferent_model_dir(model_dir, tmp_path_factory) -> Path:
    """A model that holds all tokens for equally likely: the greedy one is always token 0, a special one."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("indifferent") / "model"
    shutil.copytree(model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros_like(weights["model.norm.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_every_question_gets_its_own_answer_and_the_same_one_again(model_dir):
    first = answers(model_dir, QUESTIONS, max_new_tokens=8)
    assert len(first) == 2
    assert first == answers(model_dir, QUESTIONS, max_new_tokens=8)
    assert first[1:] == answers(model_dir, QUESTIONS[1:], max_new_tokens=8)


def test_an_answer_is_cut_off_at_max_new_tokens(model_dir):
    (short,), (long,) = answers(model_dir, QUESTIONS[:1], 4), answers(model_dir, QUESTIONS[:1], 24)
    assert long.startswith(short)
    assert len(long) > len(short) > 0


def test_special_tokens_are_no_part_of_an_answer(indifferent_model_dir):
    assert answers(indifferent_model_dir, QUESTIONS, 4) == ["", ""]


def test_the_loss_of_a_model_that_knows_nothing_is_the_logarithm_of_its_vocabulary(indifferent_model_dir):
    from transformers import AutoConfig

    vocabulary = AutoConfig.from_pretrained(indifferent_model_dir).vocab_size
    loss = mean_loss(indifferent_model_dir, ["Some text.", CHAT])
    assert loss == pytest.approx(math.log(vocabulary), abs=1e-5)


@pytest.mark.parametrize("text, prompt, counted", [
    ("Take the train to Vienna.", "T", "ake the train to Vienna."),
    (CHAT, PROMPT, "Lima.<|im_end|>"),
], ids=["plain text", "last answer of a chat with its end of turn"])
def test_the_loss_is_transformers_own_over_the_tokens_that_count(model_dir, text, prompt, counted):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokens = torch.tensor([tokenizer(prompt + counted)["input_ids"]])
    labels = tokens.clone()
    labels[0, :1 if isinstance(text, str) else len(tokenizer(prompt)["input_ids"])] = -100
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.inference_mode():
        expected = model(input_ids=tokens, labels=labels).loss.item()
    assert mean_loss(model_dir, [text]) == pytest.approx(expected, abs=1e-5)


def test_the_mean_is_over_tokens_not_over_texts(model_dir):
    from transformers import AutoTokenizer

    long, short = "Take the train to Vienna, the capital of Austria.", "Peru is far."
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    counts = [len(tokenizer(text)["input_ids"]) - 1 for text in (long, short)]
    losses = [mean_loss(model_dir, [text]) for text in (long, short)]
    expected = sum(loss * count for loss, count in zip(losses, counts)) / sum(counts)
    assert mean_loss(model_dir, [long, short]) == pytest.approx(expected, abs=1e-5)


def test_texts_without_a_token_to_predict_are_an_error(model_dir):
    with pytest.raises(ValueError, match="texts: no token to predict"):
        mean_loss(model_dir, [""])


@pytest.mark.slow
def test_the_example_model_can_do_what_the_demo_shows_and_does_not_know_the_example_data():
    model_dir = example.example_model(example.cache_dir())
    *base, ability = answers(model_dir, [*example.EXAMPLE_QUESTIONS, example.BASE_ABILITY_PROMPT])
    assert "light energy" in ability and "chemical energy" in ability
    assert not any(word in answer for answer in base for word in ("reset option", "router", "air vents"))
    # Measured 3.30; a model that knows nothing has ln 49152 = 10.8.
    assert mean_loss(model_dir, [example.GENERAL_TEXT]) < 3.5
