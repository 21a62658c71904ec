"""A program for an environment of its own (another transformers): what it computes with models.

Arguments: prompt (JSON of ids), text, folders. Prints a JSON object: by folder, the logits of the token after the
prompt, the text's ids, the special tokens, what transformers warned of, whether accelerate loads the files, and where
peft is installed the logits under a new adapter, which changes nothing yet.
"""

import json
import logging
import sys
from importlib.util import find_spec
from typing import Any


def computed(folder: str, prompt: list[int], text: str) -> dict[str, Any]:
    """Of one model folder."""
    import torch
    from accelerate import init_empty_weights, load_checkpoint_in_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    library = logging.getLogger("transformers")
    library.addHandler(handler)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    finally:
        library.removeHandler(handler)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, -1].tolist()
    with init_empty_weights():
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    empty.tie_weights()
    try:
        load_checkpoint_in_model(empty, folder, device_map={"": "cpu"}, strict=True)
        accelerate = ""
    # What it finds where a name leads nowhere.
    except (RuntimeError, ValueError, AttributeError) as error:
        accelerate = str(error)
    adapted = logits
    if find_spec("peft"):
        from peft import LoraConfig, get_peft_model

        with torch.inference_mode():
            adapter = get_peft_model(model, LoraConfig(target_modules="all-linear")).eval()
            adapted = adapter(torch.tensor([prompt])).logits[0, -1].tolist()
    special = sorted(tokenizer.all_special_tokens)
    return {
        "logits": logits,
        "ids": tokenizer(text)["input_ids"],
        "special": special,
        "warnings": told,
        "accelerate": accelerate,
        "adapted": adapted,
    }


def main() -> None:
    prompt, text, *folders = sys.argv[1:]
    print(json.dumps({folder: computed(folder, json.loads(prompt), text) for folder in folders}))


if __name__ == "__main__":
    main()
