import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.config import TrainingConfig


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"osft": {}}', "3"])
def test_a_config_of_somebody_else_is_refused(config: str):
    with pytest.raises(InputError, match="^training_config is not what preprocess returns: "):
        TrainingConfig.from_json(config)
