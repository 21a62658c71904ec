"""config.json and tokenizer_config.json of the published model: the base model's own, in words that transformers 4 and
5 both read."""

from collections.abc import Mapping
from typing import Any

# How transformers 5 calls what every version reads as a fast tokenizer.
_TOKENIZER_OF_5, _TOKENIZER = "TokenizersBackend", "PreTrainedTokenizerFast"


def published_config(
    trained: Mapping[str, Any], base: Mapping[str, Any] | None, *, dtype: str | None, is_untied: bool
) -> dict[str, Any]:
    """The base model's config with what the training changed, and the old form beside each new one.

    mini-trainer writes the config anew (with the cache switched off, the tokenizer's one end of turn in the place of
    several, and its transformers version's names), so only what the weights make necessary is taken from it.

    Args:
        trained: the checkpoint's config.
        base: the base model's; None where it is not known, or is another kind of model (a text model that was taken
            out of one for text and images).
        dtype: of the published weights, as torch calls it; None leaves what the config says.
        is_untied: the head is a tensor of its own, unlike the base model's.
    """
    if base is None or base.get("model_type") != trained.get("model_type"):
        config = {**trained, "use_cache": True}
    else:
        config = dict(base)
        # mini-trainer enlarges the vocabulary where the tokenizer has more tokens.
        if "vocab_size" in config and trained.get("vocab_size", config["vocab_size"]) != config["vocab_size"]:
            config["vocab_size"] = trained["vocab_size"]
    # Without either, transformers takes float32.
    said = config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype and said != dtype:
        config |= dict.fromkeys([key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"], dtype)
    if is_untied:
        config["tie_word_embeddings"] = False
    return with_old_forms(config)


def with_old_forms(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with torch_dtype beside dtype, and rope_theta and rope_scaling beside rope_parameters.

    transformers before 5 does not know rope_parameters and takes its default base without a word. Names of both:
    transformers 4.57 and 5, modeling_rope_utils.py; configuration_gemma3.py for a base for each kind of layer.
    """
    config = dict(config)
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = with_old_forms(config["text_config"])
    if "dtype" in config:
        config.setdefault("torch_dtype", config["dtype"])
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or not rope:
        return config
    if isinstance(rope.get("full_attention"), dict):
        local = rope.get("sliding_attention")
        if isinstance(local, dict) and "rope_theta" in local:
            config.setdefault("rope_local_base_freq", local["rope_theta"])
        rope = rope["full_attention"]
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            config.setdefault(key, rope[key])
    config.setdefault("rope_scaling", _rope_scaling(config, rope))
    return config


def _rope_scaling(config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if kind == "longrope":
        # Phi's configs of transformers 4 count the keys.
        scaling.pop("rope_type", None)
        scaling["type"] = kind
        if "original_max_position_embeddings" in config:
            scaling.pop("original_max_position_embeddings", None)
    return scaling


def loadable_tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same tokenizer in names that transformers 4.57 knows too: its class, and its further special tokens."""
    config = dict(config)
    if config.get("tokenizer_class") == _TOKENIZER_OF_5:
        config["tokenizer_class"] = _TOKENIZER
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    return config
