"""evaluate_model in osft_pipeline and behind train_model: only where it is asked for."""

import pytest

from helpers.compiled_pipeline import compile_, documents_of, rows_artifact, say
from kfp_osft.pipelines import PipelineSettings, build_osft_pipeline, osft_pipeline, train_model
from kfp_osft.pipelines.osft.wiring import EvaluationPod
from kfp_osft.pipelines.osft.workflow_size import WORKFLOW_LIMIT, estimate
from kfp_osft.shared.parameters.evaluation_parameters import EVALUATION_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError

NAMES = {parameter.name for parameter in EVALUATION_PARAMETERS}


@pytest.fixture(scope="module")
def evaluated():
    return documents_of(build_osft_pipeline(PipelineSettings(evaluation=EvaluationPod())))


def form(compiled):
    return compiled.specification["root"]["inputDefinitions"]["parameters"]


def test_by_default_there_is_neither_the_stage_nor_its_parameters():
    compiled = documents_of(osft_pipeline)
    assert "evaluate-model" not in compiled.tasks and not NAMES & set(form(compiled))


def test_it_follows_the_exported_model_and_has_the_models_of_the_run(evaluated):
    task = evaluated.tasks["evaluate-model"]
    assert sorted(task["dependentTasks"]) == ["export-model", "launch-trainjob"]
    given = task["inputs"]["parameters"]
    assert given["checkpoint_dir"]["taskOutputParameter"]["outputParameterKey"] == "checkpoint_dir"
    assert given["gate"] == {"componentInputParameter": "gate"} and "base_model" not in given
    assert task["taskInfo"]["name"] == "Evaluate model"


def test_with_it_the_model_is_published_after_the_evaluation_and_without_it_by_export_model(evaluated):
    given = {"componentInputParameter": "export_uri"}
    assert evaluated.tasks["evaluate-model"]["inputs"]["parameters"]["export_uri"] == given
    assert "export_uri" not in evaluated.tasks["export-model"]["inputs"]["parameters"]
    assert documents_of(osft_pipeline).tasks["export-model"]["inputs"]["parameters"]["export_uri"] == given


@pytest.mark.parametrize("key", ["AWS_S3_ENDPOINT", "HF_TOKEN", "OCI_PULL_SECRET_MODEL_DOWNLOAD", "EVAL_HUB_TOKEN"])
def test_it_has_the_credentials_to_publish_with_and_those_of_an_eval_hub(evaluated, key):
    secrets = evaluated.kubernetes("evaluate-model")["secretAsEnv"]
    assert key in {entry["envVar"] for secret in secrets for entry in secret["keyToEnv"]}


@pytest.mark.parametrize("parameter", EVALUATION_PARAMETERS, ids=lambda parameter: parameter.name)
def test_the_form_has_its_parameters_with_their_defaults(evaluated, parameter):
    assert form(evaluated)[parameter.name]["defaultValue"] == parameter.default
    assert form(evaluated)[parameter.name]["description"] == f"[Evaluation] {parameter.description}"


def test_its_outputs_are_outputs_of_the_pipeline(evaluated):
    outputs = evaluated.specification["root"]["outputDefinitions"]
    assert {"output_model", "output_evaluation", "output_report"} <= outputs["artifacts"].keys()
    assert outputs["parameters"].keys() == {"Output", "passed"}


def test_a_run_with_it_takes_at_most_41_percent_of_what_argo_can_store(evaluated):
    assert estimate([evaluated.specification, evaluated.platform]).stored <= 0.41 * WORKFLOW_LIMIT


def test_its_pod_has_the_resources_and_the_image_that_are_given():
    pod = EvaluationPod(cpu="8", memory="64Gi", gpus=1, image="example.org/torch:cuda")
    container = documents_of(build_osft_pipeline(PipelineSettings(evaluation=pod))).container("evaluate-model")
    assert container["image"] == "example.org/torch:cuda"
    resources = container["resources"]
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("8", "64Gi")
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"


def test_train_model_adds_it_and_what_comes_after_waits_for_it():
    def callers(limit: float = 0.1):
        task = train_model(pvc_path="/pvc", dataset=rows_artifact(), evaluation={"gate": True, "max_forgetting": limit})
        task.set_caching_options(False).set_env_variable("HF_HUB_OFFLINE", "1")
        say(text=f"{task.outputs['passed']}").after(task)

    compiled = compile_(callers)
    given = compiled.tasks["evaluate-model"]["inputs"]["parameters"]
    assert given["gate"]["runtimeValue"]["constant"] is True
    assert given["max_forgetting"] == {"componentInputParameter": "limit"}
    assert "evaluate-model" in compiled.tasks["say"]["dependentTasks"]
    names = {variable["name"] for variable in compiled.container("evaluate-model")["env"]}
    assert "HF_HUB_OFFLINE" in names


@pytest.mark.parametrize(
    ("evaluation", "problem"),
    [
        ({"max_forgetting": -1.0}, "max_forgetting=-1.0 is not allowed"),
        ({"max_forgeting": 0.1}, "max_forgeting is not a parameter of an evaluation"),
    ],
)
def test_a_constant_that_is_not_allowed_fails_when_it_is_compiled(evaluation, problem):
    def callers():
        train_model(pvc_path="/pvc", dataset=rows_artifact(), evaluation=evaluation)

    with pytest.raises(InputError, match=problem):
        compile_(callers)


def test_an_improvement_that_nothing_can_show_fails_when_it_is_compiled():
    def callers(**held_out):
        train_model(pvc_path="/pvc", dataset=rows_artifact(), evaluation={"min_improvement": 0.5}, **held_out)

    with pytest.raises(InputError, match=r"min_improvement=0\.5 needs held-out rows: give validation_uri"):
        compile_(lambda: callers())
    compile_(lambda: callers(training_validation_split=0.1))
    compile_(lambda: callers(validation_uri="org/rows"))


def test_a_constant_that_is_not_allowed_fails_when_the_pipeline_is_nested():
    pipeline = build_osft_pipeline(PipelineSettings(evaluation=EvaluationPod()))

    def callers():
        pipeline(pvc_path="/pvc", dataset_uri="org/rows", max_forgetting=-1.0)

    with pytest.raises(InputError, match="max_forgetting=-1.0 is not allowed"):
        compile_(callers)
