"""Configs of many families of models, made tiny, and models of them."""

from pathlib import Path
from typing import Any

from kfp_osft.shared.model.torchvision import hide_broken_torchvision

_SIZES = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
#: Four experts, each as large as the layer would be without them.
MIXTURE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}


def save_config(folder: Path, family: str, **changes: Any) -> Path:
    """Saves the config of a family of transformers (its model_type) with these sizes; returns the folder."""
    hide_broken_torchvision()
    from transformers import CONFIG_MAPPING

    folder.mkdir(parents=True, exist_ok=True)
    CONFIG_MAPPING[family](**{**_SIZES, **changes}).save_pretrained(folder)
    return folder


def save_model(folder: Path, family: str, tokenizer_of: Path) -> Path:
    """Saves a tiny float32 model of the family with another model's tokenizer; returns the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    save_config(folder, family, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).save_pretrained(
            folder
        )
    tokenizer.save_pretrained(folder)
    return folder
