import inspect
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple, Optional

import kfp
import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl, kubernetes
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from kfp_osft import stages
from kfp_osft.pipelines import osft_pipeline, train_model
from kfp_osft.pipelines.osft_task import OsftTask
from kfp_osft.shared.errors import InputError
from kfp_osft.shared.parameters import ALL_PARAMETERS

STAGES = ["resolve-dataset", "preprocess", "launch-trainjob", "collect-metrics", "render-loss-chart",
          "export-model"]
LAUNCH = ["launch-trainjob"]
USER_CODE = ["resolve-dataset", "preprocess", "launch-trainjob"]
HUB = ["resolve-dataset", "preprocess", "launch-trainjob", "export-model"]
PYTHON_IMAGE = "python:3.11"
WORKSPACE = dsl.WorkspaceConfig(
    size="1Gi", kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"accessModes": ["ReadWriteMany"]}))

# The contract's inputs in its order: name, annotation, default. Its Output arguments are the task's outputs;
# dataset and kubernetes_config have None for a default, so they are Optional.
SIGNATURE = [
    ("pvc_path", str, inspect.Parameter.empty),
    ("dataset", Optional[dsl.Input[dsl.Dataset]], None),
    ("training_base_model", str, "Qwen/Qwen2.5-1.5B-Instruct"),
    ("training_effective_batch_size", int, 128),
    ("training_max_tokens_per_gpu", int, 64000),
    ("training_max_seq_len", int, 8192),
    ("training_learning_rate", Optional[float], None),
    ("training_lr_warmup_steps", Optional[int], None),
    ("training_checkpoint_at_epoch", Optional[bool], None),
    ("training_num_epochs", Optional[int], None),
    ("training_data_output_dir", Optional[str], None),
    ("training_envs", str, ""),
    ("training_resource_cpu_per_worker", str, "8"),
    ("training_resource_gpu_per_worker", int, 1),
    ("training_resource_memory_per_worker", str, "32Gi"),
    ("training_resource_num_procs_per_worker", str, "auto"),
    ("training_resource_num_workers", int, 1),
    ("training_metadata_labels", str, ""),
    ("training_metadata_annotations", str, ""),
    ("training_unfreeze_rank_ratio", float, 0.25),
    ("training_osft_memory_efficient_init", bool, True),
    ("training_target_patterns", str, ""),
    ("training_seed", Optional[int], None),
    ("training_use_liger", Optional[bool], None),
    ("training_use_processed_dataset", Optional[bool], None),
    ("training_unmask_messages", Optional[bool], None),
    ("training_lr_scheduler", Optional[str], None),
    ("training_lr_scheduler_kwargs", str, ""),
    ("training_save_final_checkpoint", Optional[bool], None),
    ("training_fsdp_sharding_strategy", Optional[str], None),
    ("kubernetes_config", Optional[dsl.TaskConfig], None),
    # The only extension: today's pipelines pass it.
    ("training_runtime", str, "training-hub"),
]
TRAINING_ARGUMENTS = {parameter.name: parameter.type for parameter in ALL_PARAMETERS}
# The outputs of make_values, by type.
OUTPUTS = {str: "text", int: "integer", float: "number", bool: "boolean"}


class Compiled(NamedTuple):
    """A compiled pipeline: both documents, and what is looked for in them by task name."""

    specification: dict[str, Any]
    platform: dict[str, Any]

    @property
    def tasks(self) -> dict[str, dict]:
        """All tasks, those of nested groups too."""
        groups = [self.specification["root"], *self.specification["components"].values()]
        dags = [group["dag"] for group in groups if "dag" in group]
        return {name: task for dag in dags for name, task in dag["tasks"].items()}

    def container(self, task: str) -> dict:
        return self.specification["deploymentSpec"]["executors"][f"exec-{task}"]["container"]

    @property
    def executors(self) -> dict[str, dict]:
        platform = self.platform.get("platforms", {}).get("kubernetes", {})
        return platform.get("deploymentSpec", {}).get("executors", {})

    def kubernetes(self, task: str) -> dict:
        """What kfp.kubernetes set on the task."""
        return self.executors.get(f"exec-{task}", {})

    def stages_with(self, field: str) -> list[str]:
        return [stage for stage in STAGES if field in self.kubernetes(stage)]


def documents_of(component) -> Compiled:
    """What the compiler writes as YAML, which takes it most of its time."""
    return Compiled(json_format.MessageToDict(component.pipeline_spec),
                    json_format.MessageToDict(component.platform_spec))


def compile_(function, parameters=None, **options) -> Compiled:
    """Compiles a pipeline function; its parameters may be given by type."""
    if parameters is not None:
        function.__signature__ = inspect.Signature([
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=type_)
            for name, type_ in parameters.items()])
    compiled = documents_of(dsl.pipeline(name="callers", **options)(function))
    for config in compiled.executors.values():
        json_format.ParseDict(config, KubernetesExecutorConfig(), ignore_unknown_fields=False)
    return compiled


@dsl.component(base_image=PYTHON_IMAGE)
def make_values() -> NamedTuple(
        "Values", [("text", str), ("integer", int), ("number", float), ("boolean", bool)]):
    return "text", 1, 1.0, True


@dsl.component(base_image=PYTHON_IMAGE)
def make_dataset(rows: dsl.Output[dsl.Dataset]):
    open(rows.path, "w").close()


@dsl.component(base_image=PYTHON_IMAGE)
def use_outputs(model: dsl.Input[dsl.Model], metrics: dsl.Input[dsl.Metrics], chart: dsl.Input[dsl.HTML],
                status: str):
    print(model.path, metrics.metadata, chart.path, status)


@dsl.component(base_image=PYTHON_IMAGE)
def say(text: str = "done"):
    print(text)


@dsl.component(base_image=PYTHON_IMAGE)
def count_models(models: dsl.Input[list[dsl.Model]]):
    print(len(models))


def rows_artifact():
    return dsl.importer(artifact_uri="s3://bucket/rows.jsonl", artifact_class=dsl.Dataset).output


def test_the_contracts_example_compiles_to_what_an_upload_takes(tmp_path):
    @dsl.pipeline(name="my-osft-pipeline", pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE))
    def my_pipeline():
        training_task = train_model(
            pvc_path=dsl.WORKSPACE_PATH_PLACEHOLDER,
            training_base_model="Qwen/Qwen2.5-1.5B-Instruct",
            training_num_epochs=1,
            training_effective_batch_size=128,
            training_max_seq_len=8192,
            training_unfreeze_rank_ratio=0.25,
        )
        kubernetes.use_secret_as_env(training_task, "hf-token", {"HF_TOKEN": "HF_TOKEN"}, optional=True)

    compiler.Compiler().compile(my_pipeline, str(tmp_path / "pipeline.yaml"))
    specification, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text(encoding="utf-8"))
    json_format.ParseDict(specification, PipelineSpec(), ignore_unknown_fields=False)
    json_format.ParseDict(platform, PlatformSpec(), ignore_unknown_fields=False)
    assert set(specification["root"]["dag"]["tasks"]) == set(STAGES)
    assert Compiled(specification, platform).stages_with("secretAsEnv") == HUB


# The signature


def test_the_signature_is_the_contracts_with_one_extension():
    signature = inspect.signature(train_model)
    declared = [(name, parameter.annotation, parameter.default)
                for name, parameter in signature.parameters.items()]
    assert declared == SIGNATURE
    assert signature.return_annotation is dsl.PipelineTask


def test_all_arguments_are_by_keyword_as_a_kfp_components():
    kinds = {parameter.kind for parameter in inspect.signature(train_model).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_the_docstring_tells_every_argument():
    documentation = inspect.getdoc(train_model)
    assert train_model.__name__ == "train_model"
    assert [name for name, *_ in SIGNATURE if f"    {name}: " not in documentation] == []


@pytest.mark.parametrize(
    ("positional", "keywords", "message"),
    [
        ((), {}, r"train_model\(\) missing a required .*argument: 'pvc_path'"),
        (("/pvc",), {}, r"train_model\(\) takes keyword arguments only \(1 positional given\)"),
        ((), {"pvc_path": "/pvc", "training_epochs": 1},
         r"train_model\(\) got an unexpected keyword argument 'training_epochs'"),
        ((), {"pvc_path": "/pvc", "dataset_uri": "org/rows"},
         r"train_model\(\) got an unexpected keyword argument 'dataset_uri'"),
    ],
)
def test_a_wrong_call_is_a_type_error_inside_a_pipeline_and_outside(positional, keywords, message):
    with pytest.raises(TypeError, match=message):
        train_model(*positional, **keywords)
    with pytest.raises(TypeError, match=message):
        compile_(lambda: train_model(*positional, **keywords) and None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("training_num_epochs", "3"), ("training_base_model", 3), ("training_use_liger", "yes"),
     ("training_learning_rate", "1e-5")])
def test_a_constant_of_another_type_is_refused_when_the_pipeline_is_compiled(name, value):
    def callers():
        train_model(pvc_path="/pvc", **{name: value})

    with pytest.raises(Exception, match=f"Incompatible argument passed to the input '{name}'"):
        compile_(callers)


# In a pipeline: the same as osft_pipeline


def test_it_adds_the_stages_of_osft_pipeline_with_the_same_arguments_and_order():
    # The same parameters as osft_pipeline has, passed on under their own names.
    arguments = {"pvc_path": str, **TRAINING_ARGUMENTS}

    def callers(*values):
        train_model(**dict(zip(arguments, values, strict=True)))

    facade = compile_(callers, arguments)
    whole = documents_of(osft_pipeline).specification

    assert facade.specification["components"] == whole["components"]
    assert facade.specification["deploymentSpec"] == whole["deploymentSpec"]
    expected = whole["root"]["dag"]["tasks"]
    # It has no dataset_uri: its rows come as an artifact.
    for name in ("dataset_uri", "dataset_split"):
        expected["resolve-dataset"]["inputs"]["parameters"].pop(name)
        facade.tasks["resolve-dataset"]["inputs"]["parameters"].pop(name)
    assert facade.specification["root"]["dag"]["tasks"] == expected


def test_what_is_left_out_or_none_is_not_passed_and_takes_the_stages_default():
    def callers():
        train_model(pvc_path="/pvc", training_seed=None, training_learning_rate=None, training_num_epochs=2)

    given = compile_(callers).tasks["preprocess"]["inputs"]["parameters"]
    assert set(given) == {"pvc_path", "dataset_path", "training_num_epochs"}
    assert given["training_num_epochs"] == {"runtimeValue": {"constant": 2}}


@pytest.fixture(scope="module")
def from_parameters():
    """All training arguments from the caller's parameters."""

    def callers(*values):
        train_model(pvc_path="/pvc", **dict(zip(TRAINING_ARGUMENTS, values, strict=True)))

    return compile_(callers, {f"my_{name}": type_ for name, type_ in TRAINING_ARGUMENTS.items()})


@pytest.mark.parametrize("argument", TRAINING_ARGUMENTS)
def test_a_pipeline_parameter_may_be_given_for_any_argument(from_parameters, argument):
    given = from_parameters.tasks["preprocess"]["inputs"]["parameters"]
    assert given[argument] == {"componentInputParameter": f"my_{argument}"}


@pytest.fixture(scope="module")
def from_upstream():
    """All training arguments from the outputs of another task."""

    def callers():
        values = make_values().outputs
        arguments = {name: values[OUTPUTS[type_]] for name, type_ in TRAINING_ARGUMENTS.items()}
        train_model(pvc_path="/pvc", **arguments)

    return compile_(callers)


@pytest.mark.parametrize("argument", TRAINING_ARGUMENTS)
def test_an_upstream_output_may_be_given_for_any_argument(from_upstream, argument):
    preprocess = from_upstream.tasks["preprocess"]
    assert preprocess["inputs"]["parameters"][argument] == {"taskOutputParameter": {
        "outputParameterKey": OUTPUTS[TRAINING_ARGUMENTS[argument]], "producerTask": "make-values"}}
    assert "make-values" in preprocess["dependentTasks"]


@pytest.mark.parametrize("stage", ["resolve-dataset", "preprocess", "launch-trainjob", "export-model"])
def test_every_stage_that_writes_gets_the_workspace(stage):
    def constant():
        train_model(pvc_path=dsl.WORKSPACE_PATH_PLACEHOLDER)

    def parameter(folder):
        train_model(pvc_path=folder)

    def upstream():
        train_model(pvc_path=make_values().outputs["text"])

    given = [compile_(constant, pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE)),
             compile_(parameter, {"folder": str}), compile_(upstream)]
    assert [compiled.tasks[stage]["inputs"]["parameters"]["pvc_path"] for compiled in given] == [
        {"runtimeValue": {"constant": dsl.WORKSPACE_PATH_PLACEHOLDER}},
        {"componentInputParameter": "folder"},
        {"taskOutputParameter": {"outputParameterKey": "text", "producerTask": "make-values"}},
    ]


def test_a_dataset_comes_from_an_importer():
    def callers():
        train_model(pvc_path="/pvc", dataset=rows_artifact())

    resolve = compile_(callers).tasks["resolve-dataset"]
    assert resolve["inputs"]["artifacts"]["dataset"] == {
        "taskOutputArtifact": {"outputArtifactKey": "artifact", "producerTask": "importer"}}
    assert resolve["dependentTasks"] == ["importer"]
    assert set(resolve["inputs"]["parameters"]) == {"pvc_path"}


def test_a_dataset_comes_from_an_upstream_component():
    def callers():
        train_model(pvc_path="/pvc", dataset=make_dataset().outputs["rows"])

    assert compile_(callers).tasks["resolve-dataset"]["inputs"]["artifacts"]["dataset"] == {
        "taskOutputArtifact": {"outputArtifactKey": "rows", "producerTask": "make-dataset"}}


def test_a_dataset_comes_from_the_callers_own_input():
    def callers(rows):
        train_model(pvc_path="/pvc", dataset=rows)

    tasks = compile_(callers, {"rows": dsl.Input[dsl.Dataset]}).tasks
    assert tasks["resolve-dataset"]["inputs"]["artifacts"] == {"dataset": {"componentInputArtifact": "rows"}}


def test_a_dataset_of_another_kind_is_refused():
    def callers():
        model = dsl.importer(artifact_uri="s3://bucket/model", artifact_class=dsl.Model)
        train_model(pvc_path="/pvc", dataset=model.output)

    with pytest.raises(Exception, match="Incompatible argument passed to the input 'dataset'"):
        compile_(callers)


def test_its_outputs_are_the_contracts_and_can_be_used():
    def callers() -> dsl.Model:
        task = train_model(pvc_path="/pvc")
        assert set(task.outputs) == {"output_model", "output_metrics", "output_loss_chart", "Output"}
        use_outputs(model=task.outputs["output_model"], metrics=task.outputs["output_metrics"],
                    chart=task.outputs["output_loss_chart"], status=task.outputs["Output"])
        return task.outputs["output_model"]

    used = compile_(callers).tasks["use-outputs"]
    assert used["inputs"]["artifacts"] == {
        name: {"taskOutputArtifact": {"outputArtifactKey": key, "producerTask": stage}}
        for name, key, stage in [("model", "output_model", "export-model"),
                                 ("metrics", "output_metrics", "collect-metrics"),
                                 ("chart", "output_loss_chart", "render-loss-chart")]}
    assert used["inputs"]["parameters"] == {
        "status": {"taskOutputParameter": {"outputParameterKey": "Output", "producerTask": "export-model"}}}


def test_twice_in_one_pipeline_are_two_trainings_that_do_not_touch_one_another():
    def callers():
        first = train_model(pvc_path="/pvc/a", training_seed=1)
        second = train_model(pvc_path="/pvc/b", training_seed=2).after(first)
        kubernetes.use_secret_as_env(second, "hf-token", {"HF_TOKEN": "HF_TOKEN"})
        second.set_display_name("Second")

    compiled = compile_(callers)
    assert sorted(compiled.tasks) == sorted([*STAGES, *(f"{stage}-2" for stage in STAGES)])
    for suffix, folder, seed in (("", "/pvc/a", 1), ("-2", "/pvc/b", 2)):
        given = compiled.tasks[f"preprocess{suffix}"]["inputs"]["parameters"]
        assert given["pvc_path"]["runtimeValue"]["constant"] == folder
        assert given["training_seed"]["runtimeValue"]["constant"] == seed
        assert given["dataset_path"]["taskOutputParameter"]["producerTask"] == f"resolve-dataset{suffix}"
    assert compiled.tasks["resolve-dataset-2"]["dependentTasks"] == ["export-model"]
    assert compiled.tasks["preprocess"]["taskInfo"]["name"] == "Preprocess"
    assert set(compiled.executors) == {f"exec-{stage}-2" for stage in HUB}


# In groups


def test_inside_a_condition():
    def callers(wanted):
        with dsl.If(wanted == True):  # noqa: E712
            say().after(train_model(pvc_path="/pvc", dataset=rows_artifact()))

    compiled = compile_(callers, {"wanted": bool})
    assert set(STAGES) < set(compiled.specification["components"]["comp-condition-1"]["dag"]["tasks"])
    assert compiled.tasks["say"]["dependentTasks"] == ["export-model"]


def test_inside_a_condition_a_secrets_name_from_a_parameter_comes_in_as_for_a_plain_task():
    def compiled_with(make_task):
        def callers(wanted, secret):
            with dsl.If(wanted == True):  # noqa: E712
                kubernetes.use_secret_as_env(make_task(), secret, {"HF_TOKEN": "HF_TOKEN"})

        compiled = compile_(callers, {"wanted": bool, "secret": str})
        group = compiled.specification["components"]["comp-condition-1"]
        return compiled, group["inputDefinitions"]["parameters"]

    compiled, inputs = compiled_with(lambda: train_model(pvc_path="/pvc"))
    plain, plain_inputs = compiled_with(say)
    assert inputs == plain_inputs
    assert [compiled.kubernetes(stage) for stage in HUB] == [plain.kubernetes("say")] * len(HUB)


def test_inside_conditions_that_an_upstream_output_decides():
    def callers():
        values = make_values()
        with dsl.If(values.outputs["integer"] > 0):
            train_model(pvc_path="/pvc", training_num_epochs=values.outputs["integer"])
        with dsl.Else():
            train_model(pvc_path="/pvc", training_base_model=values.outputs["text"])

    assert {*STAGES, *(f"{stage}-2" for stage in STAGES)} < set(compile_(callers).tasks)


def test_inside_a_loop_over_parameters_with_all_models_collected():
    def callers():
        with dsl.ParallelFor([1e-5, 1e-4], parallelism=1) as rate:
            task = train_model(pvc_path="/pvc", training_learning_rate=rate)
            task.set_display_name("Tune")
        count_models(models=dsl.Collected(task.outputs["output_model"]))

    compiled = compile_(callers)
    given = compiled.tasks["preprocess"]["inputs"]["parameters"]["training_learning_rate"]
    assert "loop-item" in given["componentInputParameter"]
    models = compiled.tasks["count-models"]["inputs"]["artifacts"]["models"]["taskOutputArtifact"]
    assert models["producerTask"].startswith("for-loop")


def test_inside_an_exit_handler():
    def callers():
        with dsl.ExitHandler(say()):
            train_model(pvc_path="/pvc", dataset=make_dataset().outputs["rows"])

    compiled = compile_(callers)
    assert set(STAGES) < set(compiled.specification["components"]["comp-exit-handler-1"]["dag"]["tasks"])
    assert compiled.tasks["say"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


def test_as_an_exit_task_it_is_refused_because_it_is_several_tasks():
    def callers():
        with dsl.ExitHandler(train_model(pvc_path="/pvc")):
            say()

    with pytest.raises(ValueError, match="exit_task cannot depend on any other tasks"):
        compile_(callers)


def test_in_a_pipeline_that_is_nested_in_another():
    @dsl.pipeline(name="inner")
    def inner(folder: str, epochs: int = 1) -> dsl.Model:
        task = train_model(pvc_path=folder, training_num_epochs=epochs)
        kubernetes.use_secret_as_env(task, "hf-token", {"HF_TOKEN": "HF_TOKEN"})
        return task.outputs["output_model"]

    def callers():
        inner(folder="/pvc").set_display_name("Inner")

    compiled = compile_(callers)
    assert compiled.stages_with("secretAsEnv") == HUB


# What is done to the task


def operated(operate, parameters=None) -> Compiled:
    """Compiles a pipeline that does something to train_model's task, which must come back for chaining."""

    def callers(*arguments):
        task = train_model(pvc_path="/pvc")
        assert operate(task, *arguments) is task

    return compile_(callers, parameters or {})


def test_it_is_a_pipeline_task_to_whoever_looks():
    def callers():
        task = train_model(pvc_path="/pvc")
        assert isinstance(task, dsl.PipelineTask)
        assert task.name == "export-model"
        assert task.inputs["pvc_path"] == "/pvc"
        with pytest.raises(AttributeError, match="multiple outputs"):
            task.output  # noqa: B018

    compile_(callers)


def test_every_method_of_a_pipeline_task_is_passed_on():
    public = {name for name in vars(dsl.PipelineTask) if not name.startswith("_")}
    # Which work from what OsftTask sets: its outputs, its inputs, its set_env_variable.
    inherited = {"inputs", "output", "outputs", "set_debug_pause"}
    assert public - inherited <= set(vars(OsftTask))


def test_after_another_task_the_first_stage_waits():
    def callers():
        train_model(pvc_path="/pvc").after(say(), make_dataset())

    tasks = compile_(callers).tasks
    assert sorted(tasks["resolve-dataset"]["dependentTasks"]) == ["make-dataset", "say"]
    assert tasks["preprocess"]["dependentTasks"] == ["resolve-dataset"]


def test_another_task_after_it_waits_for_the_model():
    def callers():
        say().after(train_model(pvc_path="/pvc"))

    assert compile_(callers).tasks["say"]["dependentTasks"] == ["export-model"]


def test_ignoring_an_upstream_failure_is_the_first_stages():
    def callers():
        train_model(pvc_path="/pvc").after(say()).ignore_upstream_failure()

    tasks = compile_(callers).tasks
    assert [name for name in STAGES if "triggerPolicy" in tasks[name]] == ["resolve-dataset"]


@pytest.mark.parametrize(("enabled", "expected"), [(True, {"enableCache": True}), (False, {})])
def test_caching_options_reach_all_stages(enabled, expected):
    tasks = operated(lambda task: task.set_caching_options(enabled)).tasks
    assert [tasks[stage]["cachingOptions"] for stage in STAGES] == [expected] * len(STAGES)


def test_a_cache_key_reaches_all_stages():
    tasks = operated(lambda task: task.set_caching_options(True, cache_key="mine")).tasks
    assert [tasks[stage]["cachingOptions"].get("cacheKey") for stage in STAGES] == ["mine"] * len(STAGES)


def test_retries_reach_all_stages():
    tasks = operated(lambda task: task.set_retry(2, backoff_duration="30s")).tasks
    assert [tasks[stage]["retryPolicy"]["maxRetryCount"] for stage in STAGES] == [2] * len(STAGES)
    assert [tasks[stage]["retryPolicy"]["backoffDuration"] for stage in STAGES] == ["30s"] * len(STAGES)


def test_a_display_name_goes_before_the_stages_names():
    tasks = operated(lambda task: task.set_display_name("Tune Qwen")).tasks
    names = [tasks[stage]["taskInfo"]["name"] for stage in STAGES]
    assert names[0] == "Tune Qwen: resolve dataset" and names[5] == "Tune Qwen: export model"
    assert len(set(names)) == len(STAGES)


def test_an_image_reaches_all_stages():
    compiled = operated(lambda task: task.set_container_image("example.org/image:1"))
    assert {compiled.container(stage)["image"] for stage in STAGES} == {"example.org/image:1"}


def test_an_image_may_be_a_pipeline_parameter():
    compiled = operated(lambda task, image: task.set_container_image(image), {"image": str})
    assert {compiled.container(stage)["image"] for stage in STAGES} == {
        "{{$.inputs.parameters['pipelinechannel--image']}}"}
    for stage in STAGES:
        given = compiled.tasks[stage]["inputs"]["parameters"]
        assert given["pipelinechannel--image"] == {"componentInputParameter": "image"}


# An environment variable's name, and the stages that get it.
ENVIRONMENT = {
    "KUBERNETES_SERVER_URL": LAUNCH,
    "KUBERNETES_AUTH_TOKEN": LAUNCH,
    "OSFT_LAUNCHER": LAUNCH,
    "OCI_PULL_SECRET_MODEL_DOWNLOAD": ["preprocess"],
    "HF_TOKEN": HUB,
    "HF_ENDPOINT": HUB,
    "HUGGING_FACE_HUB_TOKEN": HUB,
    "AWS_ACCESS_KEY_ID": ["resolve-dataset"],
    "AWS_SECRET_ACCESS_KEY": ["resolve-dataset"],
    "S3_ENDPOINT": ["resolve-dataset"],
    "WANDB_API_KEY": USER_CODE,
    "SOMETHING_ELSE": USER_CODE,
    # No prefix of a name above.
    "MY_KUBERNETES_X": USER_CODE,
    "hf_token": USER_CODE,
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_an_environment_variable_reaches_the_stages_that_need_it(name):
    compiled = operated(lambda task: task.set_env_variable(name, "value"))
    given = {stage: compiled.container(stage).get("env", []) for stage in STAGES}
    assert {stage: env for stage, env in given.items() if env} == {
        stage: [{"name": name, "value": "value"}] for stage in ENVIRONMENT[name]}


@pytest.mark.parametrize("name", ENVIRONMENT)
@pytest.mark.parametrize(("use", "field"), [(kubernetes.use_secret_as_env, "secretAsEnv"),
                                            (kubernetes.use_config_map_as_env, "configMapAsEnv")])
def test_a_variable_from_a_secret_or_a_config_map_reaches_the_stages_that_need_it(use, field, name):
    compiled = operated(lambda task: use(task, "mine", {"key": name}, optional=True))
    assert compiled.stages_with(field) == ENVIRONMENT[name]
    for stage in ENVIRONMENT[name]:
        (item,) = compiled.kubernetes(stage)[field]
        ((entry_name, key_name),) = [(entry["envVar"], entry.get("secretKey", entry.get("configMapKey")))
                                     for entry in item["keyToEnv"]]
        assert (entry_name, key_name, item["optional"]) == (name, "key", True)


@pytest.mark.parametrize("name", ["HF_HOME", "POD_IP"])
def test_a_variable_from_a_pods_field_reaches_the_stages_that_need_it(name):
    compiled = operated(lambda task: kubernetes.use_field_path_as_env(task, name, "status.podIP"))
    expected = HUB if name == "HF_HOME" else USER_CODE
    assert compiled.stages_with("fieldPathAsEnv") == expected
    assert compiled.kubernetes("preprocess") == {
        "fieldPathAsEnv": [{"name": name, "fieldPath": "status.podIP"}]}


def test_a_secret_with_variables_for_different_stages_is_split():
    keys = {"url": "KUBERNETES_SERVER_URL", "token": "HF_TOKEN", "oci": "OCI_PULL_SECRET_MODEL_DOWNLOAD"}
    compiled = operated(lambda task: kubernetes.use_secret_as_env(task, "all-in-one", keys))
    given = {stage: [(item["secretName"], sorted(entry["envVar"] for entry in item["keyToEnv"]))
                     for item in compiled.kubernetes(stage)["secretAsEnv"]] for stage in HUB}
    assert given == {
        "resolve-dataset": [("all-in-one", ["HF_TOKEN"])],
        "preprocess": [("all-in-one", ["HF_TOKEN", "OCI_PULL_SECRET_MODEL_DOWNLOAD"])],
        "launch-trainjob": [("all-in-one", ["HF_TOKEN", "KUBERNETES_SERVER_URL"])],
        "export-model": [("all-in-one", ["HF_TOKEN"])],
    }


def test_what_todays_pipelines_do_to_the_task_compiles_and_lands_where_it_is_needed():
    def callers():
        task = train_model(pvc_path="/pvc", dataset=rows_artifact(), training_runtime="training-hub")
        task.set_caching_options(False)
        kubernetes.set_image_pull_policy(task, "IfNotPresent")
        for secret, names in {"kubernetes-credentials": ["KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"],
                              "oci-pull-secret-model-download": ["OCI_PULL_SECRET_MODEL_DOWNLOAD"],
                              "hf-token": ["HF_TOKEN"]}.items():
            kubernetes.use_secret_as_env(task, secret, {name: name for name in names}, optional=True)

    compiled = compile_(callers)
    secrets = {stage: sorted(item["secretName"] for item in compiled.kubernetes(stage).get("secretAsEnv", []))
               for stage in STAGES}
    assert secrets == {
        "resolve-dataset": ["hf-token"],
        "preprocess": ["hf-token", "oci-pull-secret-model-download"],
        "launch-trainjob": ["hf-token", "kubernetes-credentials"],
        "collect-metrics": [],
        "render-loss-chart": [],
        "export-model": ["hf-token"],
    }
    assert {compiled.kubernetes(stage)["imagePullPolicy"] for stage in STAGES} == {"IfNotPresent"}


TERM = {"key": "zone", "operator": "In", "values": ["a"]}
AFFINITY = {"requiredDuringSchedulingIgnoredDuringExecution": {
    "nodeSelectorTerms": [{"matchExpressions": [TERM]}]}}
TOLERATION = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
# What kfp.kubernetes can do to a task beside environment variables: how, its field, the stages it lands on.
PLATFORM = {
    "set_image_pull_policy": (lambda f, task: f(task, "Always"), "imagePullPolicy", STAGES),
    "set_image_pull_secrets": (lambda f, task: f(task, ["registry"]), "imagePullSecret", STAGES),
    "add_pod_label": (lambda f, task: f(task, "team", "nlp"), "podMetadata", STAGES),
    "add_pod_annotation": (lambda f, task: f(task, "note", "x"), "podMetadata", STAGES),
    "set_security_context": (lambda f, task: f(task, run_as_user=1000), "securityContext", STAGES),
    "set_timeout": (lambda f, task: f(task, 3600), "activeDeadlineSeconds", STAGES),
    "use_secret_as_volume": (lambda f, task: f(task, "certificates", "/certs"), "secretAsVolume", STAGES),
    "use_config_map_as_volume": (lambda f, task: f(task, "settings", "/etc/x"), "configMapAsVolume", STAGES),
    "mount_pvc": (lambda f, task: f(task, "data", "/data"), "pvcMount", STAGES),
    "empty_dir_mount": (lambda f, task: f(task, "scratch", "/scratch"), "emptyDirMounts", STAGES),
    "add_ephemeral_volume": (lambda f, task: f(task, "tmp", "/tmp", ["ReadWriteOnce"], "1Gi"),
                             "genericEphemeralVolume", STAGES),
    "add_toleration": (lambda f, task: f(task, **TOLERATION), "tolerations", LAUNCH),
    "add_toleration_json": (lambda f, task: f(task, [TOLERATION]), "tolerations", LAUNCH),
    "add_node_selector": (lambda f, task: f(task, "gpu", "a100"), "nodeSelector", LAUNCH),
    "add_node_selector_json": (lambda f, task: f(task, {"gpu": "a100"}), "nodeSelector", LAUNCH),
    "add_node_affinity": (lambda f, task: f(task, match_expressions=[TERM]), "nodeAffinity", LAUNCH),
    "add_node_affinity_json": (lambda f, task: f(task, AFFINITY), "nodeAffinity", LAUNCH),
}
# An older KFP has fewer.
PLATFORM = {name: row for name, row in PLATFORM.items() if name in kubernetes.__all__}
# With a pipeline parameter in place of the value.
PLATFORM_PARAMETERS = {
    "set_image_pull_secrets": (str, lambda f, task, value: f(task, [value])),
    "use_secret_as_env": (str, lambda f, task, value: f(task, value, {"key": "SOMETHING"})),
    "use_secret_as_volume": (str, lambda f, task, value: f(task, value, "/certs")),
    "use_config_map_as_env": (str, lambda f, task, value: f(task, value, {"key": "SOMETHING"})),
    "use_config_map_as_volume": (str, lambda f, task, value: f(task, value, "/settings")),
    "mount_pvc": (str, lambda f, task, value: f(task, value, "/data")),
    "add_toleration_json": (list, lambda f, task, value: f(task, value)),
    "add_node_selector_json": (dict, lambda f, task, value: f(task, value)),
    "add_node_affinity_json": (dict, lambda f, task, value: f(task, value)),
}


def test_the_tables_hold_all_that_kfp_kubernetes_does_to_tasks():
    environment = {"use_secret_as_env", "use_config_map_as_env", "use_field_path_as_env"}
    # Components, not operations on a task.
    components = {"CreatePVC", "DeletePVC"}
    assert set(kubernetes.__all__) - components <= set(PLATFORM) | environment


def on_the_launcher_alone(operate, parameters=None) -> dict:
    """What the operation does to a plain task, which launch_trainjob's is."""

    def callers(*arguments):
        operate(stages.launch_trainjob(training_config="{}", pvc_path="/pvc"), *arguments)

    return compile_(callers, parameters or {}).kubernetes("launch-trainjob")


@pytest.mark.parametrize("name", PLATFORM)
def test_an_operation_of_kfp_kubernetes_lands_on_its_stages_as_on_a_plain_task(name):
    function = getattr(kubernetes, name)
    operate, field, expected = PLATFORM[name]
    compiled = operated(lambda task: operate(function, task))
    plain = on_the_launcher_alone(lambda task: operate(function, task))

    assert list(plain) == [field]
    assert compiled.stages_with(field) == expected
    assert [compiled.kubernetes(stage) for stage in expected] == [plain] * len(expected)


@pytest.mark.parametrize("name", PLATFORM_PARAMETERS)
def test_an_operation_of_kfp_kubernetes_takes_a_pipeline_parameter_as_on_a_plain_task(name):
    function = getattr(kubernetes, name)
    type_, operate = PLATFORM_PARAMETERS[name]
    compiled = operated(lambda task, value: operate(function, task, value), {"value": type_})
    plain = on_the_launcher_alone(lambda task, value: operate(function, task, value), {"value": type_})

    assert "value" in json.dumps(plain)
    assert compiled.kubernetes("launch-trainjob") == plain


@pytest.mark.parametrize("name", [name for name in PLATFORM if not name.startswith("set_")])
def test_an_operation_of_kfp_kubernetes_twice_lands_twice(name):
    function = getattr(kubernetes, name)
    operate, field, expected = PLATFORM[name]

    def twice(task):
        operate(function, task)
        return operate(function, task)

    compiled = operated(twice)
    plain = on_the_launcher_alone(twice)
    assert [compiled.kubernetes(stage) for stage in expected] == [plain] * len(expected)


def test_operations_of_kfp_kubernetes_add_up():
    def operate(task):
        kubernetes.add_pod_label(task, "team", "nlp")
        kubernetes.add_pod_label(task, "stage", "tune")
        kubernetes.add_pod_annotation(task, "note", "x")
        kubernetes.add_node_selector(task, "gpu", "a100")
        kubernetes.add_node_selector(task, "zone", "a")
        kubernetes.mount_pvc(task, "one", "/one")
        kubernetes.use_secret_as_env(task, "hf-token", {"HF_TOKEN": "HF_TOKEN"})
        return kubernetes.mount_pvc(task, "two", "/two")

    compiled = operated(operate)
    assert compiled.kubernetes("launch-trainjob") == on_the_launcher_alone(operate)
    assert compiled.kubernetes("collect-metrics") == {
        "podMetadata": {"labels": {"team": "nlp", "stage": "tune"}, "annotations": {"note": "x"}},
        "pvcMount": compiled.kubernetes("launch-trainjob")["pvcMount"],
    }
    mounts = compiled.kubernetes("collect-metrics")["pvcMount"]
    assert [mount["mountPath"] for mount in mounts] == ["/one", "/two"]


def test_a_volume_that_an_upstream_task_makes_is_waited_for():
    def callers():
        volume = kubernetes.CreatePVC(pvc_name_suffix="-data", access_modes=["ReadWriteMany"], size="1Gi",
                                      storage_class_name="standard")
        task = train_model(pvc_path="/data")
        kubernetes.mount_pvc(task, volume.outputs["name"], "/data")
        kubernetes.DeletePVC(pvc_name=volume.outputs["name"]).after(task)

    compiled = compile_(callers)
    assert compiled.stages_with("pvcMount") == STAGES
    assert "createpvc" in compiled.tasks["resolve-dataset"]["dependentTasks"]
    assert sorted(compiled.tasks["deletepvc"]["dependentTasks"]) == ["createpvc", "export-model"]


RESOURCES = {
    "set_cpu_request": ("4", {"resourceCpuRequest": "4"}),
    "set_cpu_limit": ("8", {"resourceCpuLimit": "8"}),
    "set_memory_request": ("16Gi", {"resourceMemoryRequest": "16Gi"}),
    "set_memory_limit": ("32Gi", {"resourceMemoryLimit": "32Gi"}),
    "set_accelerator_type": ("nvidia.com/gpu", {"accelerator": {"resourceType": "nvidia.com/gpu"}}),
    "add_node_selector_constraint": ("nvidia.com/gpu", {"accelerator": {"resourceType": "nvidia.com/gpu"}}),
}


def without_numbers(resources: dict) -> dict:
    """KFP writes resources twice, as given and as a deprecated number."""
    kept = {name: value for name, value in resources.items() if name not in (
        "cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit")}
    if "accelerator" in kept:
        kept["accelerator"] = {
            name: value for name, value in kept["accelerator"].items() if name.startswith("resource")}
    return kept


@pytest.mark.parametrize("method", RESOURCES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_resources_are_the_training_pods(method):
    value, expected = RESOURCES[method]
    compiled = operated(lambda task: getattr(task, method)(value))
    given = without_numbers(compiled.container("launch-trainjob")["resources"])
    given.get("accelerator", {}).pop("resourceCount", None)
    assert given == expected
    untouched = compile_(lambda: train_model(pvc_path="/pvc") and None)
    assert [compiled.container(stage) for stage in STAGES if stage not in LAUNCH] == [
        untouched.container(stage) for stage in STAGES if stage not in LAUNCH]


@pytest.mark.parametrize("method", ["set_accelerator_limit", "set_gpu_limit"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_number_of_accelerators_is_the_training_pods(method):
    compiled = operated(lambda task: getattr(task.set_accelerator_type("nvidia.com/gpu"), method)("2"))
    assert without_numbers(compiled.container("launch-trainjob")["resources"]) == {
        "accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "2"}}


@pytest.mark.parametrize(
    "method", ["set_cpu_limit", "set_memory_limit", "set_memory_request", "set_cpu_request"])
def test_resources_may_be_pipeline_parameters(method):
    compiled = operated(lambda task, value: getattr(task, method)(value), {"value": str})
    assert "{{$.inputs.parameters['pipelinechannel--value']}}" in (
        compiled.container("launch-trainjob")["resources"].values())
    given = compiled.tasks["launch-trainjob"]["inputs"]["parameters"]
    assert given["pipelinechannel--value"] == {"componentInputParameter": "value"}


# Outside a pipeline


def dataset(**attributes):
    return dsl.Dataset(**{"name": "rows", "uri": "", "metadata": {}, **attributes})


@pytest.fixture
def local_call(monkeypatch):
    """Calls train_model outside a pipeline; returns what the local run of osft_pipeline gets."""
    calls = []
    # The package's attribute of that name is the function.
    module = sys.modules["kfp_osft.pipelines.train_model"]
    monkeypatch.setattr(module, "osft_pipeline", lambda **arguments: calls.append(arguments) or "task")

    def call(**arguments):
        assert train_model(**arguments) == "task"
        return calls.pop()

    return call


@pytest.mark.parametrize(
    ("artifact", "location"),
    [
        (dataset(uri="/data/rows.jsonl"), "/data/rows.jsonl"),
        (dataset(uri="/data/rows.jsonl", metadata={"pvc_path": "/other"}), "/data/rows.jsonl"),
        (dataset(metadata={"pvc_path": "/pvc/rows.jsonl"}), "/pvc/rows.jsonl"),
        (dataset(metadata={"pvc_dir": "/pvc/rows"}), "/pvc/rows"),
        (dataset(metadata={"artifact_path": "s3://bucket/rows"}), "s3://bucket/rows"),
        (dataset(metadata={"artifact_path": "/c", "pvc_dir": "/b", "pvc_path": "/a"}), "/a"),
    ],
)
def test_outside_a_pipeline_it_runs_the_same_stages_on_the_artifacts_rows(local_call, artifact, location):
    arguments = local_call(pvc_path="/pvc", dataset=artifact, training_seed=7, training_learning_rate=None)
    assert arguments == {"pvc_path": "/pvc", "dataset_uri": location, "training_seed": 7}


def test_outside_a_pipeline_without_a_dataset_is_an_input_error(local_call):
    with pytest.raises(InputError, match="dataset is missing; outside a pipeline give a dsl.Dataset"):
        train_model(pvc_path="/pvc")


@pytest.mark.parametrize("given", ["/data/rows.jsonl", {"uri": "/data/rows.jsonl"}, Path("/data")])
def test_outside_a_pipeline_a_dataset_that_is_no_artifact_is_an_input_error(local_call, given):
    kind = type(given).__name__
    with pytest.raises(InputError, match=f"dataset is a {kind}; outside a pipeline give a dsl.Dataset"):
        train_model(pvc_path="/pvc", dataset=given)


@pytest.mark.skipif(kfp.__version__ < "2.17", reason="kfp.local cannot leave an artifact out before 2.17")
def test_outside_a_pipeline_a_failing_stage_fails_the_call(users_kfp_local, tmp_path, capfd):
    missing = tmp_path / "missing.jsonl"
    with pytest.raises(RuntimeError, match="FAILURE"):
        train_model(pvc_path=str(tmp_path / "pvc"), dataset=dataset(uri=str(missing)))
    assert f"Error: dataset_uri={missing}: there is nothing at {missing}" in capfd.readouterr().out
