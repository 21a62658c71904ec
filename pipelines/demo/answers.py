"""A model's answers, with plain transformers; the demo compares those before and after the training."""

from collections.abc import Sequence
from pathlib import Path

from kfp_osft.shared.model.loss import loaded_model


def answers(model_dir: Path, questions: Sequence[str], max_new_tokens: int = 48) -> list[str]:
    """Answers each question in a chat of its own, greedily: the same model folder gives the same answers.

    Args:
        model_dir: a transformers folder with a chat template; no network is used.
        questions: each becomes the only user turn of a chat, with the template's own system prompt.
        max_new_tokens: maximum length of an answer in tokens; a longer one is cut off.

    Returns:
        One answer per question, in order, without special tokens and surrounding whitespace.
    """
    import torch

    texts = []
    with loaded_model(model_dir) as (model, tokenizer):
        for question in questions:
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            ).to(model.device)
            with torch.inference_mode():
                tokens = model.generate(**prompt, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
            new_tokens = tokens[0, prompt["input_ids"].shape[1] :]
            texts.append(tokenizer.decode(new_tokens, skip_special_tokens=True).strip())
    return texts
