"""Kinds of tokenizers with chat templates like those of real models, generated without network."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from helpers.tiny_model import CHAT_TEMPLATE

CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
MISTRAL_TOKENS = ["<unk>", "<s>", "</s>"]
# As Qwen2.5's: a message may have tool calls and no content.
CHATML_WITH_TOOLS = """\
{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}\
{% if message.content is defined %}{{ message.content }}{% endif %}\
{% for call in message.tool_calls or [] %}\
{{ '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}\
{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}\
{{ '}\n</tool_call>' }}{% endfor %}\
{{ '<|im_end|>\n' }}{% endfor %}"""
# As Qwen3's: reasoning is rendered after the last question only, and blank lines around it are stripped.
CHATML_WITH_REASONING = """\
{% set last = namespace(question=-1) %}\
{% for message in messages %}\
{% if message.role == 'user' %}{% set last.question = loop.index0 %}{% endif %}{% endfor %}\
{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}\
{% if message.role == 'assistant' and message.reasoning_content is string and loop.index0 > last.question %}\
{{ '<think>\n' + message.reasoning_content.strip('\n') + '\n</think>\n\n' + message.content.lstrip('\n') }}\
{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"""
# SmolLM2's own: it adds a system turn if there is none.
SMOLLM2 = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"""
LLAMA3 = """\
{{ bos_token }}{% for message in messages %}\
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}\
{{ message['content'] | trim + '<|eot_id|>' }}\
{% endfor %}"""
# As Mistral's: the system's text goes into the first question, and roles must alternate.
MISTRAL = """\
{{ bos_token }}{% set rest = messages[1:] if messages[0].role == 'system' else messages %}\
{% for message in rest %}\
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate') }}{% endif %}\
{% if message.role == 'user' %}\
{{ '[INST] ' + (messages[0].content + '\n\n' if loop.first and messages[0].role == 'system' else '') }}\
{{ message.content + ' [/INST]' }}\
{% else %}{{ ' ' + message.content | trim + eos_token }}{% endif %}{% endfor %}"""
TRAINING_TEXT = [
    "What is the capital of Austria? Vienna is the capital of Austria, and the seat of its government.",
    "system user assistant You are a helpful assistant. I travel to Peru: Lima!",
] * 20


class Family(NamedTuple):
    """A kind of tokenizer, its end-of-sequence token and chat template."""

    tokenizer: Callable[[list[str]], Any]
    special_tokens: list[str]
    bos: str | None
    eos: str
    template: str


def byte_level_bpe(special_tokens: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        TRAINING_TEXT,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special_tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return bpe


def sentencepiece_unigram(special_tokens: list[str]) -> Any:
    """As converted sentencepiece models are: NFKC, blanks as U+2581, one more in front, <s> by itself."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.train_from_iterator(
        TRAINING_TEXT,
        trainers.UnigramTrainer(
            vocab_size=200,
            special_tokens=special_tokens,
            unk_token="<unk>",
            initial_alphabet=[chr(code) for code in range(33, 127)],
            show_progress=False,
        ),
    )
    unigram.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return unigram


def sentencepiece_bpe(special_tokens: list[str]) -> Any:
    """As Llama 2's: the normalizer makes U+2581 of blanks, one more in front; the unknown becomes bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bpe.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.train_from_iterator(
        TRAINING_TEXT,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=[*special_tokens, *[f"<0x{byte:02X}>" for byte in range(256)]],
            initial_alphabet=[chr(code) for code in range(33, 127)],
            show_progress=False,
        ),
    )
    return bpe


FAMILIES = {
    "chatml": Family(byte_level_bpe, CHATML_TOKENS, None, "<|im_end|>", CHATML_WITH_TOOLS),
    "chatml-reasoning": Family(byte_level_bpe, CHATML_TOKENS, None, "<|im_end|>", CHATML_WITH_REASONING),
    "smollm2": Family(byte_level_bpe, CHATML_TOKENS, "<|im_start|>", "<|im_end|>", SMOLLM2),
    "llama3": Family(byte_level_bpe, LLAMA_TOKENS, "<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    # A tokenizer whose eos is not its template's end of turn, as base models have it.
    "llama3-other-eos": Family(byte_level_bpe, LLAMA_TOKENS, "<|begin_of_text|>", "<|end_of_text|>", LLAMA3),
    "mistral": Family(byte_level_bpe, MISTRAL_TOKENS, "<s>", "</s>", MISTRAL),
    "llama2": Family(sentencepiece_bpe, MISTRAL_TOKENS, "<s>", "</s>", MISTRAL),
    "sentencepiece": Family(sentencepiece_unigram, MISTRAL_TOKENS, "<s>", "</s>", MISTRAL),
    "sentencepiece-chatml": Family(
        sentencepiece_unigram, MISTRAL_TOKENS, "<s>", "</s>", CHAT_TEMPLATE.replace("<|im_end|>", "</s>")
    ),
}


def make_tokenizer(family: Family, template: str | None = None) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=family.tokenizer(family.special_tokens),
        bos_token=family.bos,
        eos_token=family.eos,
        unk_token="<unk>" if "<unk>" in family.special_tokens else None,
    )
    tokenizer.chat_template = template or family.template
    return tokenizer


def make_model_folder(folder: Path, tokenizer: Any) -> Path:
    """A folder that passes for a model as long as nobody loads its weights."""
    from transformers import LlamaConfig

    tokenizer.save_pretrained(folder)
    LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    ).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return folder
