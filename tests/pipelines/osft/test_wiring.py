import pytest
from kfp import dsl

from helpers.compiled_pipeline import compile_, make_values, rows_artifact
from kfp_osft.pipelines import osft_pipeline, train_model
from kfp_osft.shared.reporting.errors import InputError

# Each is refused in a pod as well; see the tests of the declarations for all that is.
BAD = [
    ("training_unfreeze_rank_ratio", 25.0),
    ("training_learning_rate", -1.0),
    ("training_lr_scheduler", "cosin"),
    ("training_resource_memory_per_worker", "32GB"),
    ("training_envs", "HF_TOKEN=hf_secret"),
    ("training_num_epochs", 0),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_constant_that_is_not_allowed_fails_when_train_model_is_compiled(name, value):
    def callers():
        train_model(pvc_path="/pvc", dataset=rows_artifact(), **{name: value})

    with pytest.raises(InputError, match=f"^{name}"):
        compile_(callers)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_constant_that_is_not_allowed_fails_when_osft_pipeline_is_nested(name, value):
    def callers():
        osft_pipeline(pvc_path="/pvc", dataset_uri="org/rows", **{name: value})

    with pytest.raises(InputError, match=f"^{name}"):
        compile_(callers)


def test_all_of_them_are_reported_at_once():
    def callers():
        train_model(pvc_path="/pvc", dataset=rows_artifact(), training_num_epochs=0, training_seed=-5)

    with pytest.raises(InputError) as caught:
        compile_(callers)
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == ["training_num_epochs", "training_seed"]


def test_what_comes_from_a_task_a_parameter_or_a_placeholder_is_left_to_preprocess():
    def callers(ratio: float, name: str):
        values = make_values().outputs
        arguments = {
            "training_unfreeze_rank_ratio": ratio,
            "training_num_epochs": values["integer"],
            "training_base_model": f"org/{name}",
            "training_metadata_labels": f"run={dsl.PIPELINE_JOB_NAME_PLACEHOLDER}",
        }
        train_model(pvc_path="/pvc/first", dataset=rows_artifact(), **arguments)
        osft_pipeline(pvc_path="/pvc", dataset_uri="org/rows", **arguments)

    compile_(callers)


def test_the_forms_require_what_has_no_default():
    for parameter, spec in osft_pipeline.component_spec.inputs.items():
        assert spec.optional == (parameter != "dataset_uri")
