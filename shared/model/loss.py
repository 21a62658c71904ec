"""How well a saved model predicts tokens: plain transformers, on the first GPU where there is one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.rows.chat_tokens import NO_LOSS, Sample

# The logits of a token are a float32 for each token of the vocabulary: 0.6 GB at once with 150,000.
_TOKENS_AT_ONCE = 1024
# Models with larger files are evaluated in the dtype they are saved in.
_FLOAT32_BYTES = 8e9


class SummedLoss(NamedTuple):
    """Negative log likelihood of one sample, summed over the tokens that count, in nats, and their number."""

    total: float
    tokens: int


def mean(losses: Sequence[SummedLoss]) -> float:
    """The mean loss in nats per token, over all tokens of all samples.

    Raises:
        ValueError: no token counts.
    """
    tokens = sum(loss.tokens for loss in losses)
    if not tokens:
        raise ValueError("samples: no token to predict")
    return sum(loss.total for loss in losses) / tokens


def text_sample(tokenizer: Any, text: str) -> Sample:
    """A plain text as a sample: every token after the first counts."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Sample(ids, [(0, len(ids))])


def sample_losses(model: Any, samples: Sequence[Sample]) -> list[SummedLoss]:
    """The loss of each sample, several at a time.

    Args:
        model: a transformers causal language model.
        samples: token ids and labels of the same length; labels of NO_LOSS do not count.

    Returns:
        One loss per sample, in order.
    """
    import torch

    losses: list[SummedLoss] = []
    for batch in _batches(samples):
        # Padded on the right, which a causal model does not attend to: no mask is needed.
        ids = torch.zeros(len(batch), max(len(sample.input_ids) for sample in batch), dtype=torch.long)
        for row, sample in zip(ids, batch, strict=True):
            row[: len(sample.input_ids)] = torch.tensor(sample.input_ids)
        with torch.inference_mode():
            logits = model(ids.to(model.device)).logits
        for sample, of_sample in zip(batch, logits, strict=True):
            labels = torch.tensor(sample.labels[1:], device=model.device)
            total = torch.nn.functional.cross_entropy(
                of_sample[: len(labels)].float(), labels, ignore_index=NO_LOSS, reduction="sum"
            )
            losses.append(SummedLoss(total.item(), sample.num_loss_counted_tokens))
    return losses


def _batches(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        longest = max(len(other.input_ids) for other in [*batch, sample])
        if batch and longest * (len(batch) + 1) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


@contextmanager
def loaded_model(model_dir: Path, trust_remote_code: bool = False) -> Iterator[tuple[Any, Any]]:
    """Model and tokenizer of a transformers folder; no network, and no bars or warnings of transformers meanwhile.

    Args:
        trust_remote_code: whether code in the folder may run; transformers is told, so that it does not ask.
    """
    hide_broken_torchvision()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars_were_on, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    # mini-trainer saves a buffer that the model class makes itself; every load would warn of it in a table.
    logging.set_verbosity_error()
    try:
        told = {"local_files_only": True, "trust_remote_code": trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(model_dir, **told)
        # float32: a CPU computes bfloat16 slower, and small differences would decide between close tokens.
        size = sum(file.stat().st_size for file in Path(model_dir).glob("*.safetensors"))
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, **told, dtype=torch.float32 if size <= _FLOAT32_BYTES else "auto"
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # transformers wraps `to` in a decorator that pyright takes for a class.
        yield model.to(device).eval(), tokenizer  # pyright: ignore[reportArgumentType]
    finally:
        logging.set_verbosity(verbosity)
        if bars_were_on:
            logging.enable_progress_bar()
