import json

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.config import TrainingConfig

_OF_WRONG_TYPES = json.dumps({"fingerprint": 1, "osft": [], "trainjob": 1, "data": 2, "env": 3, "about": 4})


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"osft": {}}', "3", "[" * 100_000, _OF_WRONG_TYPES])
def test_a_config_of_somebody_else_is_refused(config: str):
    with pytest.raises(InputError, match="^training_config is not what preprocess returns: "):
        TrainingConfig.from_json(config)
