"""A real, tiny language model and a small chat dataset for the tests, generated without network."""

import json
import random
from pathlib import Path

from kfp_osft.shared.model.torchvision import hide_broken_torchvision

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CAPITALS = {
    "Austria": "Vienna",
    "Chile": "Santiago",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "Ghana": "Accra",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Portugal": "Lisbon",
}
_QUESTIONS = (
    ("What is the capital of {0}?", "The capital of {0} is {1}. It is the seat of the government."),
    ("Tell me in which country {1} is.", "{1} is in {0}, and it is the capital city of that country."),
    ("I travel to {0}. Which city do I see first?", "Begin in {1}, the capital of {0}, and take the train."),
    ("Is {1} the capital of {0}?", "Yes, {1} is the capital of {0}, and the government sits there."),
)


def make_tiny_model(folder: Path, *, tied: bool = True, seed: int = 0) -> Path:
    """Saves a two-layer Qwen2 in float32 (0.1 million parameters) with its tokenizer, and returns the folder.

    The tokenizer is byte-level BPE with a ChatML template; its end of turn, `<|im_end|>`, is the eos token.
    The same seed gives the same weights. `tied`: the output layer shares the embedding's weights.
    """
    hide_broken_torchvision()
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = _train_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    # The seed must not change the caller's random state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=32,
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_chat_rows(path: Path, rows: int = 32, seed: int = 0) -> Path:
    """Writes `rows` lines of `messages`, a question and its answer (30 to 60 tokens); returns the path."""
    generator = random.Random(seed)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            question, answer = generator.choice(_QUESTIONS)
            names = generator.choice(sorted(_CAPITALS.items()))
            messages = [
                {"role": "user", "content": question.format(*names)},
                {"role": "assistant", "content": answer.format(*names)},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def change_weights(folder: Path) -> None:
    """Changes all weights of a model a little, in all directions, as plain fine-tuning does."""
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    changed = {
        name: weight + 0.01 * torch.randn(weight.shape, generator=generator) for name, weight in load_file(file).items()
    }
    save_file(changed, file, metadata={"format": "pt"})


def _train_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["system\n", "user\n", "assistant\n", "You are a helpful assistant."]
    text += [line.format(*names) for pair in _QUESTIONS for line in pair for names in _CAPITALS.items()]
    bpe.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
