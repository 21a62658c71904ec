"""A program for an environment of its own (another transformers): what it computes with models.

Arguments: prompt (JSON of ids), text, folders. Prints a JSON object: by folder, the logits of the token after the
prompt, the text's ids, the special tokens, what transformers warned of, and whether accelerate loads the files.
"""

import json
import logging
import sys
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
    special = sorted(tokenizer.all_special_tokens)
    return {
        "logits": logits,
        "ids": tokenizer(text)["input_ids"],
        "special": special,
        "warnings": told,
        "accelerate": accelerate,
    }


def main() -> None:
    prompt, text, *folders = sys.argv[1:]
    print(json.dumps({folder: computed(folder, json.loads(prompt), text) for folder in folders}))


if __name__ == "__main__":
    main()
