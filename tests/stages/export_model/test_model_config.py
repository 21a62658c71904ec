from typing import Any

import pytest

from kfp_osft.stages.export_model.model_config import loadable_tokenizer_config, published_config, with_old_forms

_BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "rope_theta": 500000.0,
    "eos_token_id": [1, 2],
    "torch_dtype": "bfloat16",
}


def _published(trained: dict[str, Any], base: dict[str, Any] | None, dtype: str | None = "bfloat16", **options: bool):
    return published_config(trained, base, dtype=dtype, is_untied=options.get("is_untied", False))


def test_a_base_models_config_stays_as_it_is_whatever_the_trainer_wrote_beside_the_weights():
    trained = {"model_type": "llama", "vocab_size": 100, "use_cache": False, "eos_token_id": 2, "dtype": "bfloat16"}

    assert _published(trained, _BASE) == _BASE


def test_what_the_training_changed_is_taken_over():
    trained = {"model_type": "llama", "vocab_size": 104}

    config = _published(trained, _BASE, "float32", is_untied=True)

    assert config == {**_BASE, "vocab_size": 104, "torch_dtype": "float32", "tie_word_embeddings": False}


@pytest.mark.parametrize("base", [None, {"model_type": "gemma3", "text_config": {}}], ids=["unknown", "another kind"])
def test_without_the_base_models_the_trainers_config_is_published_with_the_cache_on(base: dict | None):
    trained = {"model_type": "gemma3_text", "use_cache": False, "dtype": "bfloat16"}

    assert _published(trained, base) == {**trained, "use_cache": True, "torch_dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        (
            {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}},
            {"rope_theta": 1e5, "rope_scaling": None},
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0, "partial_rotary_factor": 0.5}},
            {
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
            },
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
                }
            },
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
        (
            # Phi 3: three keys, neither more nor less.
            {
                "original_max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_theta": 1e4,
                    "rope_type": "longrope",
                    "short_factor": [1.0],
                    "long_factor": [2.0],
                    "original_max_position_embeddings": 4096,
                },
            },
            {
                "rope_theta": 1e4,
                "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
            },
        ),
        ({"dtype": "float16"}, {"torch_dtype": "float16"}),
        ({"rope_theta": 1e5, "rope_scaling": None, "torch_dtype": "float16"}, {}),
    ],
)
def test_the_old_form_stands_beside_the_new_one(config: dict[str, Any], added: dict[str, Any]):
    assert with_old_forms(config) == {**config, **added}
    assert with_old_forms({"text_config": config}) == {"text_config": {**config, **added}}


def test_the_tokenizers_class_and_further_special_tokens_have_names_that_transformers_4_knows():
    config = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"], "eos_token": "</s>"}

    assert loadable_tokenizer_config(config) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<a>"],
        "eos_token": "</s>",
    }


@pytest.mark.parametrize(
    "config", [{"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": {"image_token": "<image>"}}, {}]
)
def test_another_tokenizers_config_stays_as_it_is(config: dict[str, Any]):
    assert loadable_tokenizer_config(config) == config
