"""Small tokenizers of the kinds that models have, trained in the test."""

from functools import cache
from typing import Any

_TEXT = (
    "The quick brown fox jumps over 42 lazy dogs; isn't it? Yes: 3.14, naïve café. "
    "Rain in Spain stays mainly in the plain. Der Fluß fließt. 東京は日本の首都です。 "
)
# How Llama 3 and Qwen 2 split, each written in our own words: digits by three, or one by one.
_BY_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
ADDED = ["<|im_start|>", "<|im_end|>"]


def _backend(pre_tokenizer: Any, normalizer: Any = None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=ADDED,
        initial_alphabet=[*pre_tokenizers.ByteLevel.alphabet(), *sorted(set(_TEXT + "▁"))],
    )
    backend.train_from_iterator([_TEXT] * 4, trainer)
    return backend


@cache
def byte_level() -> Any:
    """As GPT-2 and SmolLM split."""
    from tokenizers import pre_tokenizers

    return _backend(pre_tokenizers.ByteLevel(add_prefix_space=False))


@cache
def by_pattern() -> Any:
    """As Llama 3 and Qwen split."""
    from tokenizers import Regex, pre_tokenizers

    return _backend(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_BY_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    )


@cache
def whole_sentences() -> Any:
    """A tokenizer that splits at full stops only, so that a blank may be in the middle of a token."""
    from tokenizers import Regex, pre_tokenizers

    return _backend(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\."), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    )


@cache
def sentencepiece() -> Any:
    """As Llama 2 and Gemma do: a normalizer that writes ▁ for a blank and before the text, and no split."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    return _backend(
        pre_tokenizers.Split(Regex(r"\n"), behavior="isolated"),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    )


KINDS = [byte_level, by_pattern, whole_sentences, sentencepiece]
