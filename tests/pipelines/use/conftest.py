from pathlib import Path

import pytest

from helpers.tiny_model import make_tiny_model
from kfp_osft.shared.model.torchvision import hide_broken_torchvision


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hide_broken_torchvision()
    # Untied: with tied embeddings an untrained model repeats the token it was given, a special one.
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), tied=False)
