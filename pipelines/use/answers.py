"""A model's answers, with plain transformers and no sampling: the same model folder gives the same answers.

What else the model's generation_config.json says, such as a repetition penalty, holds, as wherever the model is served.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.model.folder import config_value
from kfp_osft.shared.model.loss import loaded_model
from kfp_osft.shared.reporting.errors import InputError


def answers(model_dir: Path, questions: Sequence[str], max_new_tokens: int = 48) -> list[str]:
    """Answers each question in a chat of its own.

    Args:
        model_dir: a transformers folder with a chat template; no network is used.
        questions: each becomes the only user turn of a chat, with the template's own system prompt.
        max_new_tokens: maximum length of an answer in tokens; a longer one is cut off.

    Returns:
        One answer per question, in order, without special tokens and surrounding whitespace.
    """
    with loaded_model(model_dir) as (model, tokenizer):
        return [
            next_turn(model, tokenizer, [{"role": "user", "content": question}], max_new_tokens)
            for question in questions
        ]


def next_turn(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    max_new_tokens: int,
    tell: Callable[[str], None] | None = None,
) -> str:
    """The assistant's next turn in a chat, without special tokens and surrounding whitespace.

    Args:
        model, tokenizer: as loaded_model gives them.
        tell: gets the text piece by piece while it comes.

    Raises:
        InputError: more tokens than the model was made for.
    """
    import torch

    prompt = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    length = prompt["input_ids"].shape[1]
    most = config_value(model.config.to_dict(), "max_position_embeddings")
    if isinstance(most, int) and length >= most:
        raise InputError(f"the chat has {length:,} tokens, and the model takes {most:,} at most")
    streamer = _streamer(tokenizer, tell) if tell else None
    with torch.inference_mode():
        tokens = model.generate(
            **prompt, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, streamer=streamer
        )
    return tokenizer.decode(tokens[0, length:], skip_special_tokens=True).strip()


def _streamer(tokenizer: Any, tell: Callable[[str], None]) -> Any:
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        """Whole words, as transformers finds them."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            tell(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
