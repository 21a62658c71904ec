"""What a model answers, and how well it predicts a text: plain transformers on the CPU.

The demo asks the same questions before and after the training with this, and so do the tests.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from kfp_osft.shared.train_script import hide_broken_torchvision


def answers(model_dir: Path, questions: Sequence[str], max_new_tokens: int = 48) -> list[str]:
    """Answers each question by itself, greedily: the same model folder gives the same answers.

    Args:
        model_dir: a transformers folder with a chat template; no network is used.
        questions: each becomes the only user turn of a chat, with the template's own system prompt.
        max_new_tokens: length limit of an answer in tokens; a longer one is cut off there.

    Returns:
        One answer a question, in their order, without special tokens and surrounding whitespace.
    """
    import torch

    texts = []
    with _loaded(model_dir) as (model, tokenizer):
        for question in questions:
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True, return_tensors="pt", return_dict=True)
            with torch.inference_mode():
                tokens = model.generate(**prompt, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
            new_tokens = tokens[0, prompt["input_ids"].shape[1]:]
            texts.append(tokenizer.decode(new_tokens, skip_special_tokens=True).strip())
    return texts


def mean_loss(model_dir: Path, texts: Sequence[str | list[dict[str, str]]]) -> float:
    """The mean negative log likelihood, in nats a token, that the model gives to the texts.

    Args:
        model_dir: a transformers folder; no network is used.
        texts: plain texts, of which every token after the first counts; or chats (lists of messages with role
            and content, the last one the assistant's), of which the last answer counts with its end of turn.

    Returns:
        The mean over all counted tokens of all texts.

    Raises:
        ValueError: no token counts.
    """
    import torch

    total, count = 0.0, 0
    with _loaded(model_dir) as (model, tokenizer):
        for text in texts:
            tokens, first = _tokens_and_first_counted(tokenizer, text)
            if len(tokens) <= first:
                continue
            input_ids = torch.tensor([tokens])
            with torch.inference_mode():
                logits = model(input_ids).logits[0, first - 1:-1].float()
            total += torch.nn.functional.cross_entropy(logits, input_ids[0, first:], reduction="sum").item()
            count += len(tokens) - first
    if count == 0:
        raise ValueError("texts: no token to predict; a text needs at least two tokens")
    return total / count


def _tokens_and_first_counted(tokenizer, text: str | list[dict[str, str]]) -> tuple[list[int], int]:
    """The token ids and the index of the first one that counts."""
    if isinstance(text, str):
        return tokenizer(text, add_special_tokens=False)["input_ids"], 1
    prompt = tokenizer.apply_chat_template(text[:-1], add_generation_prompt=True, return_dict=True)
    first = len(prompt["input_ids"])
    chat = tokenizer.apply_chat_template(text, return_dict=True)["input_ids"]
    # As in training: an answer ends with its eos token, not with what the template writes after it.
    eos = tokenizer.eos_token_id
    end = chat.index(eos, first) + 1 if eos in chat[first:] else len(chat)
    return chat[:end], first


@contextmanager
def _loaded(model_dir: Path):
    """Model and tokenizer in float32 on the CPU; transformers shows no bars and no warnings meanwhile."""
    hide_broken_torchvision()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars_were_on, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    # mini-trainer saves a buffer that the model class makes itself; every load would warn of it in a table.
    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        # float32: a CPU computes bfloat16 slower, and small differences would decide between close tokens.
        model = AutoModelForCausalLM.from_pretrained(model_dir, local_files_only=True, dtype=torch.float32)
        yield model.eval(), tokenizer
    finally:
        logging.set_verbosity(verbosity)
        if bars_were_on:
            logging.enable_progress_bar()
