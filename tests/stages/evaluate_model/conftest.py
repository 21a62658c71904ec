"""A base model and one that was changed a little everywhere, as a plain fine-tuning would."""

import json
import shutil

import pytest

from helpers.tiny_model import change_weights
from kfp_osft.shared.model.loss import loaded_model


@pytest.fixture(scope="session")
def changed(tiny_model, tmp_path_factory):
    """Folder of the tiny model with all weights changed, a card, and an osft_run.json that names the ratio."""
    folder = tmp_path_factory.mktemp("changed") / "tuned"
    shutil.copytree(tiny_model, folder)
    change_weights(folder)
    run = {"model_name": "tiny-osft", "osft": {"unfreeze_rank_ratio": 0.25}, "about": {}, "metrics": {}}
    (folder / "osft_run.json").write_text(json.dumps(run))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# tiny-osft\n\n## Use it\n\ncode\n\n## Metrics\n\nx\n")
    return folder


@pytest.fixture(scope="module")
def loaded(changed):
    """It, as transformers has loaded it, and its tokenizer."""
    with loaded_model(changed) as (model, tokenizer):
        yield model, tokenizer


@pytest.fixture
def tuned(changed, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(changed, tmp_path / "tuned")
