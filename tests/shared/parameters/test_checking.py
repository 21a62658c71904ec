import pytest

from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.reporting.errors import InputError


def said_of(**given: object) -> str:
    with pytest.raises(InputError) as error:
        check_parameters({"training_base_model": "org/model", **given})
    return str(error.value)


@pytest.mark.parametrize("value", ["a\0b", "a\udcff", "\0" * 5000])
@pytest.mark.parametrize(
    "name", ["training_base_model", "training_envs", "training_runtime", "training_target_patterns"]
)
def test_what_no_process_or_protobuf_takes_is_one_sentence(name: str, value: str):
    said = said_of(**{name: value})
    assert said.startswith(f"{name}=") and "\0" not in said and "\n" not in said and len(said) < 1000
    said.encode()


@pytest.mark.parametrize("name", ["training_num_epochs", "training_effective_batch_size", "training_seed"])
def test_a_number_of_hundreds_of_digits_is_one_short_sentence(name: str):
    said = said_of(**{name: 10**400})
    assert said.startswith(f"{name} has more than 63 bits; allowed: ")


def test_a_long_value_is_shown_in_part():
    said = said_of(training_lr_scheduler="x" * 5000)
    assert said.startswith("training_lr_scheduler='xxx") and len(said) < 1200
