"""What a model answers."""

import json
import shutil
from pathlib import Path

import pytest

from kfp_osft.pipelines.demo.demo import BASE_ABILITY_PROMPT, EXAMPLE_QUESTIONS
from kfp_osft.pipelines.demo.example_model import example_model
from kfp_osft.pipelines.demo.wheels import cache_dir
from kfp_osft.pipelines.use.answers import answers
from kfp_osft.shared.model.loss import loaded_model, mean, sample_losses, text_sample
from kfp_osft.stages.evaluate_model.general_texts import GENERAL_TEXT

QUESTIONS = ["What is the capital of Peru?", "Is Oslo the capital of Norway?"]


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


def test_the_models_generation_config_holds_but_nothing_is_drawn_by_chance(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    config = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 0.1}
    (tmp_path / "model/generation_config.json").write_text(json.dumps(config))
    first = answers(tmp_path / "model", QUESTIONS, 8)
    assert first == answers(tmp_path / "model", QUESTIONS, 8) != answers(model_dir, QUESTIONS, 8)


def test_special_tokens_are_no_part_of_an_answer(indifferent_model_dir):
    assert answers(indifferent_model_dir, QUESTIONS, 4) == ["", ""]


@pytest.mark.slow
def test_the_example_model_can_do_what_the_demo_shows_and_does_not_know_the_example_data():
    model_dir = example_model(cache_dir())
    *base, ability = answers(model_dir, [*EXAMPLE_QUESTIONS, BASE_ABILITY_PROMPT])
    assert "light energy" in ability and "chemical energy" in ability
    assert not any(word in answer for answer in base for word in ("reset option", "router", "air vents"))
    # Measured 3.30; a model that knows nothing has ln 49152 = 10.8.
    with loaded_model(model_dir) as (model, tokenizer):
        assert mean(sample_losses(model, [text_sample(tokenizer, GENERAL_TEXT)])) < 3.5
