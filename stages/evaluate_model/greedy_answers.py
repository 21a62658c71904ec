"""Greedy answers of a model to many prompts, in batches."""

from collections.abc import Sequence
from typing import Any

# Prompts of one batch, and their tokens with the answers': a key and a value per layer are kept for each.
_PROMPTS_AT_ONCE, _TOKENS_AT_ONCE = 32, 8192


def greedy_answers(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], lengths: Sequence[int], stops: Sequence[str] = ()
) -> list[list[int]]:
    """The tokens that the model continues each prompt with, to the end of its turn or to the given length.

    What the model's generation config says of sampling, penalties and lengths does not apply; its end tokens do.

    Args:
        model: a transformers causal language model.
        tokenizer: the model's, for the padding and end tokens.
        prompts: token ids, with the generation prompt of the chat template.
        lengths: of each, the most tokens of the answer, at least 1.
        stops: texts after which an answer need not go on; some tokens may follow.

    Returns:
        The answers in the order of the prompts, without the token that ended them.
    """
    import torch
    from transformers import GenerationConfig

    ends = _end_tokens(model, tokenizer)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    answers: list[list[int]] = [[] for _ in prompts]
    for batch in batches(prompts, lengths):
        longest, wanted = max(len(prompts[at]) for at in batch), max(lengths[at] for at in batch)
        ids = torch.full((len(batch), longest), padding, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, at in enumerate(batch):
            # On the left: the answer follows the prompt without a gap.
            ids[row, longest - len(prompts[at]) :] = torch.tensor(prompts[at])
            mask[row, longest - len(prompts[at]) :] = 1
        config = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=wanted, eos_token_id=ends, pad_token_id=padding
        )
        # transformers fills in the model's own settings for those of a given config that are at their defaults.
        own, model.generation_config = model.generation_config, config
        try:
            with torch.inference_mode():
                generated = model.generate(
                    ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    stopping_criteria=_stopping(tokenizer, longest, stops),
                )
        finally:
            model.generation_config = own
        for row, at in enumerate(batch):
            tokens = generated[row, longest:].tolist()[: lengths[at]]
            stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
            answers[at] = tokens[:stop]
    return answers


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Those of the generation config, where chat models name the end of a turn, and the tokenizer's."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ends = [*named] if isinstance(named, list) else [named]
    return list(dict.fromkeys(end for end in (*ends, tokenizer.eos_token_id) if end is not None)) or [0]


def _stopping(tokenizer: Any, begin: int, stops: Sequence[str]) -> Any:
    """transformers' criteria that end an answer, which begins at a position, after one of the texts."""
    import torch
    from transformers import StoppingCriteriaList

    # A token may be a single byte of the text; and the text may begin within a token.
    window = max((len(stop.encode()) for stop in stops), default=0) + 1

    def is_over(ids: Any, scores: Any, **_: Any) -> Any:
        tails = tokenizer.batch_decode(ids[:, max(begin, ids.shape[1] - window) :])
        return torch.tensor([any(stop in tail for stop in stops) for tail in tails], device=ids.device)

    return StoppingCriteriaList([is_over] if stops else [])


def batches(
    prompts: Sequence[list[int]], lengths: Sequence[int], most_tokens: int = _TOKENS_AT_ONCE
) -> list[list[int]]:
    """Indices by batch, prompts and answers of similar length together, with padding at most so many tokens; a single
    prompt may have more."""
    order = sorted(range(len(prompts)), key=lambda at: (len(prompts[at]) + lengths[at], at))
    made: list[list[int]] = []
    for at in order:
        longest = len(prompts[at]) + lengths[at]
        if not made or len(made[-1]) == _PROMPTS_AT_ONCE or longest * (len(made[-1]) + 1) > most_tokens:
            made.append([])
        made[-1].append(at)
    return made
