from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, components, dsl
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

import kfp_osft
from helpers.compiled_pipeline import STAGES, Compiled
from kfp_osft.pipelines import osft_pipeline
from kfp_osft.pipelines.parameter_groups import group_of
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.stages.package import CORE

PARAMETER_TYPES = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN"}
# An Argo workflow that holds the specification has to stay below etcd's limit.
PIPELINE_LIMIT = 600_000

_MLFLOW = {"mlflow-credentials": {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AUTH"}}
# The Secrets that users of the present pipelines have, and MLflow's, and the stages whose work needs them.
S3_VARIABLES = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_S3_ENDPOINT",
    "AWS_DEFAULT_REGION",
    "AWS_S3_BUCKET",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
}
OF_STORES = {
    "hf-token": {"HF_TOKEN"},
    "oci-pull-secret-model-download": {"OCI_PULL_SECRET_MODEL_DOWNLOAD"},
    "s3-secret": S3_VARIABLES,
}
SECRETS = {
    "resolve-dataset": {"hf-token": {"HF_TOKEN"}, "s3-secret": S3_VARIABLES},
    "preprocess": {**OF_STORES, "mlflow-credentials": {"MLFLOW_TRACKING_URI"}},
    "launch-trainjob": {
        "hf-token": {"HF_TOKEN"},
        "kubernetes-credentials": {"KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"},
        **_MLFLOW,
    },
    "collect-metrics": {"hf-token": {"HF_TOKEN"}, **_MLFLOW},
    "render-loss-chart": _MLFLOW,
    "export-model": {**OF_STORES, **_MLFLOW},
}


def compiled(pipeline, folder: Path) -> tuple[dict, dict]:
    """The two documents of a compiled pipeline: pipeline and platform."""
    file = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(file))
    specification, platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    return specification, platform


def executors_of(platform: dict) -> dict[str, dict]:
    return Compiled({}, platform).executors


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return compiled(osft_pipeline, tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def specification(documents):
    return documents[0]


@pytest.fixture(scope="module")
def platform(documents):
    return documents[1]


@pytest.fixture(scope="module")
def inputs(specification):
    return specification["root"]["inputDefinitions"]["parameters"]


def test_the_six_stages_depend_on_one_another_in_their_order(specification):
    tasks = specification["root"]["dag"]["tasks"]
    assert {name: sorted(task.get("dependentTasks", [])) for name, task in tasks.items()} == {
        "resolve-dataset": [],
        "preprocess": ["resolve-dataset"],
        "launch-trainjob": ["preprocess"],
        "collect-metrics": ["launch-trainjob"],
        "render-loss-chart": ["collect-metrics"],
        "export-model": ["launch-trainjob"],
    }


def test_the_form_asks_for_the_workspace_the_dataset_and_the_training_parameters(inputs):
    own = {
        "pvc_path": "/kfp-workspace",
        "dataset_split": "train",
        "check_matrices": 0,
        "validation_uri": "",
        "validation_uri_split": "validation",
    }
    assert {name: inputs[name]["defaultValue"] for name in own} == own
    assert inputs["dataset_uri"].keys() == {"parameterType", "description"}, "required"
    assert set(inputs) == {"dataset_uri", *own, *(parameter.name for parameter in ALL_PARAMETERS)}
    assert "artifacts" not in inputs


def test_the_form_requires_the_dataset_and_nothing_else(inputs):
    required = [name for name, each in inputs.items() if "defaultValue" not in each and not each.get("isOptional")]
    assert required == ["dataset_uri"]


@pytest.mark.parametrize("parameter", ALL_PARAMETERS, ids=lambda parameter: parameter.name)
def test_a_training_parameter_has_its_type_a_concrete_default_and_its_description(inputs, parameter):
    declared = inputs[parameter.name]
    assert declared["parameterType"] == PARAMETER_TYPES[parameter.type]
    assert declared["defaultValue"] == parameter.pipeline_default
    # KFP's numbers are doubles.
    assert type(declared["defaultValue"]) is (float if parameter.type is int else parameter.type)
    assert declared["description"] == f"[{group_of(parameter)}] {parameter.description}"


def test_the_description_names_the_version(specification):
    assert f"Compiled with kfp-osft {kfp_osft.__version__}; code of" in specification["pipelineInfo"]["description"]


def test_every_input_and_output_has_a_description(specification):
    root = specification["root"]
    described = {
        **root["inputDefinitions"]["parameters"],
        **root["outputDefinitions"]["artifacts"],
        **root["outputDefinitions"]["parameters"],
    }
    assert [name for name, definition in described.items() if not definition.get("description")] == []
    # The form shows line breaks.
    assert [name for name, definition in described.items() if "\n" in definition["description"]] == []
    # KFP takes two outputs in one line of a docstring for one.
    assert [name for name, definition in described.items() if "output_" in definition["description"]] == []


def test_the_defaults_train_like_the_contracts():
    checked = check_parameters({parameter.name: parameter.pipeline_default for parameter in ALL_PARAMETERS})
    keys = ("learning_rate", "num_epochs", "unfreeze_rank_ratio")
    assert [checked.osft[key] for key in keys] == [5e-6, 1, 0.25]


def test_preprocess_gets_every_parameter_under_its_own_name(specification):
    given = dict(specification["root"]["dag"]["tasks"]["preprocess"]["inputs"]["parameters"])
    for of_resolve_dataset in ("dataset_path", "validation_path"):
        del given[of_resolve_dataset]
    names = ["pvc_path", *(parameter.name for parameter in ALL_PARAMETERS)]
    assert given == {name: {"componentInputParameter": name} for name in names}


def test_the_outputs_are_the_contracts(specification):
    outputs = specification["root"]["outputDefinitions"]
    assert {name: output["artifactType"]["schemaTitle"] for name, output in outputs["artifacts"].items()} == {
        "output_model": "system.Model",
        "output_metrics": "system.Metrics",
        "output_loss_chart": "system.HTML",
    }
    assert {name: output["parameterType"] for name, output in outputs["parameters"].items()} == {"Output": "STRING"}


def test_the_outputs_come_from_the_stages_that_make_them(specification):
    outputs = specification["root"]["dag"]["outputs"]
    producers = {
        name: output["artifactSelectors"][0]["producerSubtask"] for name, output in outputs["artifacts"].items()
    }
    producers["Output"] = outputs["parameters"]["Output"]["valueFromParameter"]["producerSubtask"]
    assert producers == {
        "output_model": "export-model",
        "output_metrics": "collect-metrics",
        "output_loss_chart": "render-loss-chart",
        "Output": "export-model",
    }


def test_all_stages_mount_the_code_and_the_clusters_certificate_authorities(platform):
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(executors) == 6
    for config in executors.values():
        assert [
            (item["configMapName"], item["mountPath"], item["optional"]) for item in config["configMapAsVolume"]
        ] == [
            (CORE.config_map, "/opt/kfp-osft", True),
            ("odh-trusted-ca-bundle", "/etc/pki/tls/custom-certs", True),
        ]


def test_secrets_go_only_to_the_stages_that_need_them(platform):
    given = {
        label.removeprefix("exec-"): {
            secret["secretName"]: {entry["envVar"] for entry in secret["keyToEnv"]} for secret in config["secretAsEnv"]
        }
        for label, config in executors_of(platform).items()
    }
    assert given == SECRETS


def test_secrets_are_optional_and_their_keys_are_the_variables_names(platform):
    for config in executors_of(platform).values():
        for secret in config["secretAsEnv"]:
            assert secret["optional"] is True
            assert all(entry["secretKey"] == entry["envVar"] for entry in secret["keyToEnv"])


def test_the_platform_document_holds_nothing_that_kfp_2_15_does_not_know(platform):
    # An older backend drops the whole document for one unknown field, without a word.
    fields = {field for config in executors_of(platform).values() for field in config}
    assert fields == {"secretAsEnv"}, "but for configMapAsVolume, which KFP has known since 2.0"
    assert set(platform["platforms"]["kubernetes"]) == {"deploymentSpec", "pipelineConfig"}
    assert set(platform["platforms"]["kubernetes"]["pipelineConfig"]) == {"workspace"}


def test_the_workspace_names_size_and_access_modes(platform):
    assert platform["platforms"]["kubernetes"]["pipelineConfig"]["workspace"] == {
        "size": "100Gi",
        "kubernetes": {"pvcSpecPatch": {"accessModes": ["ReadWriteMany"]}},
    }


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_is_cached_by_kfp_which_sees_paths_and_not_what_lies_there(specification, stage):
    assert specification["root"]["dag"]["tasks"][stage]["cachingOptions"] == {}


def test_every_stage_has_a_name_that_a_person_can_read(specification):
    names = [specification["root"]["dag"]["tasks"][stage]["taskInfo"]["name"] for stage in STAGES]
    assert names == [
        "Resolve dataset",
        "Preprocess",
        "Train with OSFT",
        "Collect metrics",
        "Render loss chart",
        "Export model",
    ]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "launch-trainjob"])
def test_a_stage_requests_what_it_is_limited_to(specification, stage):
    resources = specification["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]["resources"]
    assert resources["resourceCpuRequest"] == resources["resourceCpuLimit"]
    assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"]


def test_the_launcher_has_no_resources_since_kfp_would_give_them_to_the_training_pods(specification):
    executor = specification["deploymentSpec"]["executors"]["exec-launch-trainjob"]
    assert "resources" not in executor["container"]


def test_the_launcher_passes_on_what_is_the_training_pods_and_keeps_environment_and_volumes(specification):
    passed = {
        item["field"]: item.get("applyToTask", False)
        for item in specification["components"]["comp-launch-trainjob"]["taskConfigPassthroughs"]
    }
    assert passed == {
        "RESOURCES": False,
        "KUBERNETES_TOLERATIONS": False,
        "KUBERNETES_NODE_SELECTOR": False,
        "KUBERNETES_AFFINITY": False,
        "ENV": True,
        "KUBERNETES_VOLUMES": True,
    }


def test_the_upload_check_of_the_backend_finds_no_unknown_field(specification, platform):
    parsed = json_format.ParseDict(specification, PipelineSpec(), ignore_unknown_fields=False)
    assert parsed.pipeline_info.name == "osft-pipeline"
    parsed = json_format.ParseDict(platform, PlatformSpec(), ignore_unknown_fields=False)
    assert list(parsed.platforms) == ["kubernetes"]
    for config in executors_of(platform).values():
        json_format.ParseDict(config, KubernetesExecutorConfig(), ignore_unknown_fields=False)


def test_the_upload_check_would_find_one(platform):
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({**platform, "unknown": 1}, PlatformSpec(), ignore_unknown_fields=False)


def test_the_whole_pipeline_fits_into_a_workflow(tmp_path):
    compiler.Compiler().compile(osft_pipeline, str(tmp_path / "pipeline.yaml"))
    assert (tmp_path / "pipeline.yaml").stat().st_size < PIPELINE_LIMIT


@dsl.component(base_image="python:3.11")
def make_uri() -> str:
    return "org/rows"


@dsl.component(base_image="python:3.11")
def use(model: dsl.Input[dsl.Model], metrics: dsl.Input[dsl.Metrics], chart: dsl.Input[dsl.HTML], status: str):
    print(model.path, metrics.metadata, chart.path, status)


def nesting(inner):
    """A user's pipeline around the sub-pipeline."""

    @dsl.pipeline(name="nesting")
    def outer(base_model: str = "org/model", epochs: int = 2) -> dsl.Model:
        uri = make_uri()
        tuned = inner(
            dataset_uri=uri.output,
            training_base_model=base_model,
            training_num_epochs=epochs,
            training_learning_rate=1e-4,
        )
        tuned.set_display_name("Fine-tune").after(uri)
        use(
            model=tuned.outputs["output_model"],
            metrics=tuned.outputs["output_metrics"],
            chart=tuned.outputs["output_loss_chart"],
            status=tuned.outputs["Output"],
        )
        return tuned.outputs["output_model"]

    return outer


@pytest.mark.parametrize("source", ["python", "yaml"])
def test_it_nests_in_a_users_pipeline(source, tmp_path):
    inner = osft_pipeline
    if source == "yaml":
        compiler.Compiler().compile(osft_pipeline, str(tmp_path / "osft_pipeline.yaml"))
        inner = components.load_component_from_file(str(tmp_path / "osft_pipeline.yaml"))
    specification, platform = compiled(nesting(inner), tmp_path)

    task = specification["root"]["dag"]["tasks"]["osft-pipeline"]
    assert task["taskInfo"]["name"] == "Fine-tune"
    assert task["inputs"]["parameters"] == {
        "dataset_uri": {"taskOutputParameter": {"outputParameterKey": "Output", "producerTask": "make-uri"}},
        "training_base_model": {"componentInputParameter": "base_model"},
        "training_num_epochs": {"componentInputParameter": "epochs"},
        "training_learning_rate": {"runtimeValue": {"constant": 1e-4}},
    }
    nested = specification["components"][task["componentRef"]["name"]]
    assert sorted(nested["dag"]["tasks"]) == sorted(STAGES)
    # What is left out above takes the nested pipeline's own default.
    assert nested["inputDefinitions"]["parameters"]["training_seed"]["defaultValue"] == 42
    used = specification["root"]["dag"]["tasks"]["use"]["inputs"]
    assert used["artifacts"]["model"]["taskOutputArtifact"] == {
        "outputArtifactKey": "output_model",
        "producerTask": "osft-pipeline",
    }
    assert used["parameters"]["status"]["taskOutputParameter"] == {
        "outputParameterKey": "Output",
        "producerTask": "osft-pipeline",
    }
    # Its secrets come along.
    assert {label.removeprefix("exec-") for label in executors_of(platform)} == set(SECRETS)
    json_format.ParseDict(specification, PipelineSpec(), ignore_unknown_fields=False)


def test_nested_with_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="training_epochs"):

        @dsl.pipeline(name="wrong")
        def outer():
            osft_pipeline(training_epochs=1)


def test_called_with_an_unknown_argument_outside_a_pipeline_is_a_type_error():
    with pytest.raises(TypeError, match="training_epochs"):
        osft_pipeline(training_epochs=1)
