"""Checkpoints as mini-trainer saves them, of tiny models of several families, without a training.

mini-trainer registers the buffers that a model class computes as persistent, casts all tensors to the config's type,
splits them at a size and writes config and tokenizer by its transformers version (mini_trainer/train.py, save_model;
osft_utils.py, where buffers leave the meta device; 0.6.1 to 0.9.0 alike). Those functions are called here, on a process
group of one.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAMILIES = ("llama", "qwen", "gemma", "mixtral")
#: Longer than Gemma's sliding window.
PROMPT = list(range(5, 45))
# Of logits that are some units apart.
_CLEARLY = 0.05


def make_base(folder: Path, family: str, *, tied: bool, shards: int, source: Path) -> Path:
    """A base model as the Hub has it, with random weights; its tokenizer is that of the tiny model `source`.

    Args:
        family: one of FAMILIES.
        tied: the head shares the embedding's weights.
        shards: 1, or more: about that number of files.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
        # Large enough for each position to matter to the logits.
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = _model_class(family)(_config(family, common))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size="5GB" if shards == 1 else size // shards)
    tokenizer.save_pretrained(folder)
    return folder


def _model_class(family: str) -> Callable[..., Any]:
    import transformers

    names = {"llama": "Llama", "qwen": "Qwen2", "gemma": "Gemma3", "mixtral": "Mixtral"}
    return getattr(transformers, f"{names[family]}ForCausalLM")


def _config(family: str, common: dict[str, Any]) -> Any:
    import transformers

    # No base of the rotary embedding is a default, which would hide that it is not read.
    if family == "llama":
        scaling = {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        }
        return transformers.LlamaConfig(**common, rope_parameters={"rope_theta": 100.0, **scaling})
    if family == "qwen":
        return transformers.Qwen2Config(**common, rope_parameters={"rope_theta": 200.0, "rope_type": "default"})
    if family == "gemma":
        return transformers.Gemma3TextConfig(
            **common,
            head_dim=32,
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=16,
            query_pre_attn_scalar=32,
            rope_parameters={
                "sliding_attention": {"rope_theta": 300.0, "rope_type": "default"},
                "full_attention": {"rope_theta": 50.0, "rope_type": "linear", "factor": 2.0},
            },
        )
    return transformers.MixtralConfig(
        **common,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_theta": 400.0, "rope_type": "default"},
    )


def save_as_trained(base: Path, checkpoint_dir: Path, *, shard_bytes: int | None = None) -> dict[str, list]:
    """Changes a base model's weights a little and saves it by mini-trainer's save_model.

    Returns:
        What the model computes before it is saved: logits, of the last token of PROMPT, and greedy, the ids of
        the next tokens.
    """
    import huggingface_hub
    import torch
    from mini_trainer import train
    from mini_trainer.setup_model_for_training import _materialize_meta_buffers
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    computed = {"logits": next_logits(model, PROMPT), "greedy": greedy(model)}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for name in buffers:
        module = model.get_submodule(name.rpartition(".")[0])
        setattr(module, name.rpartition(".")[2], buffers[name].to("meta"))
    _materialize_meta_buffers(model, buffers)
    model.config.use_cache = False
    split = huggingface_hub.split_torch_state_dict_into_shards
    if shard_bytes:
        huggingface_hub.split_torch_state_dict_into_shards = lambda state, **options: split(
            state, **{**options, "max_shard_size": shard_bytes}
        )
    try:
        train.save_model(model, 64.0, str(checkpoint_dir), str(base))
    finally:
        huggingface_hub.split_torch_state_dict_into_shards = split
    return computed


def next_logits(model: Any, ids: list[int]) -> list[float]:
    """The logits of the token after these."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1].tolist()


def greedy(model: Any) -> list[int]:
    """The ids of the eight tokens after PROMPT, through ends of turn, as far as each is clearly the likeliest: what
    another library rounds differently decides between two that are nearly as likely."""
    ids = list(PROMPT)
    for _ in range(8):
        logits = next_logits(model, ids)
        first, second = sorted(logits, reverse=True)[:2]
        if first - second < _CLEARLY:
            break
        ids.append(logits.index(first))
    return ids[len(PROMPT) :]


def main() -> None:
    """Arguments: a folder, the tiny model, and JSON of [family, tied, shards]s; makes base/, trained/ and computed.json
    in <family>-<tied>-<shards>/."""
    import torch
    import torch.distributed.checkpoint.state_dict as state_dict_module

    folder, source, kinds = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    os.environ.update(LOCAL_RANK="0", RANK="0", WORLD_SIZE="1", NODE_RANK="0")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    get = state_dict_module.get_model_state_dict
    # On a GPU they are copied to the CPU one by one, so that tied weights are two there.
    state_dict_module.get_model_state_dict = lambda *args, **options: {
        name: tensor.clone() for name, tensor in get(*args, **options).items()
    }
    for family, tied, shards in kinds:
        place = folder / f"{family}-{'tied' if tied else 'untied'}-{shards}"
        base = make_base(place / "base", family, tied=tied, shards=shards, source=source)
        size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        # Not the base model's shards.
        computed = save_as_trained(base, place / "trained", shard_bytes=None if shards == 1 else size // (shards - 1))
        (place / "computed.json").write_text(json.dumps(computed))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
