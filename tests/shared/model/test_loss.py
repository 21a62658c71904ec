"""How well a model predicts tokens, compared with transformers' own loss."""

import math

import pytest

from kfp_osft.shared.model.loss import SummedLoss, loaded_model, mean, sample_losses, text_sample
from kfp_osft.shared.rows.chat_tokens import Sample

TEXTS = ["Take the train to Vienna, the capital of Austria.", "Peru is far.", "Go."]


@pytest.fixture(scope="module")
def loaded(tiny_model):
    with loaded_model(tiny_model) as (model, tokenizer):
        yield model, tokenizer


def transformers_loss(model, sample: Sample) -> float:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([sample.input_ids]), labels=torch.tensor([sample.labels])).loss.item()


def test_the_loss_of_each_sample_is_transformers_own_although_they_are_padded_to_one_length(loaded):
    model, tokenizer = loaded
    samples = [text_sample(tokenizer, text) for text in TEXTS]
    samples[0] = Sample(samples[0].input_ids, [(5, len(samples[0].input_ids))])
    losses = sample_losses(model, samples)
    assert [loss.tokens for loss in losses] == [
        len(samples[0].input_ids) - 5,
        *(len(sample.input_ids) - 1 for sample in samples[1:]),
    ]
    for sample, loss in zip(samples, losses, strict=True):
        assert loss.total / loss.tokens == pytest.approx(transformers_loss(model, sample), abs=1e-4)


def test_many_samples_are_taken_in_batches_and_come_back_in_their_order(loaded):
    model, tokenizer = loaded
    samples = [text_sample(tokenizer, TEXTS[at % 3] * (at % 7 + 1)) for at in range(60)]
    alone = [sample_losses(model, [sample])[0] for sample in samples]
    assert [loss.total for loss in sample_losses(model, samples)] == pytest.approx(
        [one.total for one in alone], rel=1e-4
    )


def test_an_untrained_models_loss_is_the_logarithm_of_its_vocabulary_size(loaded):
    import torch

    model, tokenizer = loaded
    norm = model.model.norm.weight
    kept = norm.detach().clone()
    with torch.no_grad():
        norm.zero_()
    try:
        losses = sample_losses(model, [text_sample(tokenizer, TEXTS[0])])
    finally:
        with torch.no_grad():
            norm.copy_(kept)
    assert mean(losses) == pytest.approx(math.log(model.config.vocab_size), abs=1e-5)


def test_the_mean_is_over_tokens_not_over_samples():
    assert mean([SummedLoss(9.0, 9), SummedLoss(11.0, 1)]) == 2.0


def test_samples_without_a_token_to_predict_are_an_error(loaded):
    model, _ = loaded
    with pytest.raises(ValueError, match="no token to predict"):
        mean(sample_losses(model, [Sample([5, 6, 7], [])]))
