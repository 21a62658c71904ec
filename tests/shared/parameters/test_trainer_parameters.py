import pytest

from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.reporting.errors import InputError


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ("momentum=0.9", "'momentum' is not an argument of the optimizer; allowed: beta1, beta2, eps, weight_decay"),
        ("beta1=1", "beta1=1 is not allowed; allowed: a number from 0 to below 1"),
        ("eps=0", "eps=0 is not allowed; allowed: a number above 0"),
        ("weight_decay=-0.1", "weight_decay=-0.1 is not allowed; allowed: a number of at least 0"),
        ("beta2=true", "beta2=true is not allowed"),
        ("beta2=nan", "beta2=nan is not allowed"),
    ],
)
def test_an_optimizer_argument_that_adamw_would_refuse_is_named(kwargs: str, told: str):
    with pytest.raises(InputError) as error:
        check_parameters({"training_optimizer_kwargs": kwargs})

    assert f"training_optimizer_kwargs: {told}" in str(error.value)


def test_the_best_model_is_a_checkpoint_too():
    given = {"training_save_final_checkpoint": False, "training_validation_every": "epoch"}

    assert "saves no checkpoint" in check_parameters(given).warnings[0]
    assert check_parameters({**given, "training_save_best": True}).warnings == ()
