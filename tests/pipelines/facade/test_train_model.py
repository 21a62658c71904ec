import inspect
from pathlib import Path
from typing import Any, Optional

import kfp
import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl, kubernetes
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from helpers.compiled_pipeline import (
    HUB,
    STAGES,
    WORKSPACE,
    Compiled,
    compile_,
    count_models,
    documents_of,
    make_dataset,
    make_values,
    rows_artifact,
    say,
    use_outputs,
)
from kfp_osft.pipelines import osft_pipeline, train_model
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError

# The contract's inputs in its order: name, annotation, default. Its Output arguments are the task's outputs;
# kubernetes_config has None for a default, so it is Optional; KFP does without for an artifact.
SIGNATURE = [
    ("pvc_path", str, inspect.Parameter.empty),
    ("dataset", dsl.Input[dsl.Dataset], None),
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
    # Not in the contract: last, with defaults. Today's pipelines pass the runtime.
    ("training_runtime", str, "training-hub"),
    ("training_start_deadline_minutes", int, 30),
    ("training_time_limit_minutes", int, 0),
    ("training_queue_limit_minutes", int, 0),
    ("training_unattended_limit_minutes", int, 60),
    ("training_max_dropped_share", float, 0.2),
    ("training_show_sample", bool, True),
    ("training_resource_shared_memory_per_worker", str, "auto"),
    ("training_min_osft_share", float, 0.5),
    ("training_export_broken_model", bool, False),
    ("training_trust_remote_code", bool, False),
    ("dataset_columns", str, ""),
    ("dataset_subset", int, 0),
    ("training_validation_split", float, 0.0),
    ("training_validation_every", str, ""),
    ("training_save_best", bool, False),
    ("training_optimizer_kwargs", str, ""),
    ("training_save_dtype", str, ""),
    ("training_block_size", int, 0),
    ("training_report_to", str, ""),
    ("export_uri", str, ""),
    ("dataset_uri", str, ""),
    ("dataset_split", str, "train"),
    ("validation_uri", str, ""),
    ("validation_uri_split", str, "validation"),
    ("evaluation", Optional[dict[str, Any]], None),
]
TRAINING_ARGUMENTS = {parameter.name: parameter.type for parameter in ALL_PARAMETERS}
# The outputs of make_values, by type.
OUTPUTS = {str: "text", int: "integer", float: "number", bool: "boolean"}


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


def test_the_signature_is_the_contracts_with_our_extensions_after_it():
    signature = inspect.signature(train_model)
    declared = [(name, parameter.annotation, parameter.default) for name, parameter in signature.parameters.items()]
    assert declared == SIGNATURE
    assert signature.return_annotation is dsl.PipelineTask


def test_all_arguments_are_by_keyword_as_a_kfp_components():
    kinds = {parameter.kind for parameter in inspect.signature(train_model).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_the_docstring_documents_every_argument():
    documentation = inspect.getdoc(train_model)
    assert train_model.__name__ == "train_model"
    assert [name for name, *_ in SIGNATURE if f"    {name}: " not in documentation] == []


@pytest.mark.parametrize(
    ("positional", "keywords", "message"),
    [
        ((), {}, r"train_model\(\) missing a required .*argument: 'pvc_path'"),
        (("/pvc",), {}, r"train_model\(\) takes keyword arguments only \(1 positional given\)"),
        (
            (),
            {"pvc_path": "/pvc", "training_epochs": 1},
            r"train_model\(\) got an unexpected keyword argument 'training_epochs'",
        ),
        (
            (),
            {"pvc_path": "/pvc", "dataset_url": "org/rows"},
            r"train_model\(\) got an unexpected keyword argument 'dataset_url'",
        ),
    ],
)
def test_a_wrong_call_is_a_type_error_inside_a_pipeline_and_outside(positional, keywords, message):
    with pytest.raises(TypeError, match=message):
        train_model(*positional, **keywords)
    with pytest.raises(TypeError, match=message):
        compile_(lambda: train_model(*positional, **keywords) and None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training_num_epochs", "3"),
        ("training_base_model", 3),
        ("training_use_liger", "yes"),
        ("training_learning_rate", "1e-5"),
    ],
)
def test_a_constant_of_another_type_is_refused_when_the_pipeline_is_compiled(name, value):
    def callers():
        train_model(pvc_path="/pvc", **{name: value})

    with pytest.raises(InputError, match=f"^{name}={value!r} is not of type"):
        compile_(callers)


# In a pipeline: the same as osft_pipeline


def test_it_adds_the_stages_of_osft_pipeline_with_the_same_arguments_and_order():
    # The same parameters as osft_pipeline has, passed on under their own names.
    own = ("dataset_uri", "pvc_path", "dataset_split", "validation_uri", "validation_uri_split")
    arguments = {**dict.fromkeys(own, str), **TRAINING_ARGUMENTS}

    def callers(*values):
        train_model(**dict(zip(arguments, values, strict=True)))

    facade = compile_(callers, arguments)
    whole = documents_of(osft_pipeline).specification

    assert facade.specification["components"] == whole["components"]
    assert facade.specification["deploymentSpec"] == whole["deploymentSpec"]
    expected = whole["root"]["dag"]["tasks"]
    # It has no parameter for this.
    for tasks in (expected, facade.tasks):
        tasks["collect-metrics"]["inputs"]["parameters"].pop("check_matrices")
    assert facade.specification["root"]["dag"]["tasks"] == expected


def test_what_is_left_out_or_none_is_not_passed_and_takes_the_stages_default():
    def callers():
        train_model(pvc_path="/pvc", training_seed=None, training_learning_rate=None, training_num_epochs=2)

    given = compile_(callers).tasks["preprocess"]["inputs"]["parameters"]
    assert set(given) == {"pvc_path", "dataset_path", "validation_path", "training_num_epochs"}
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
    assert preprocess["inputs"]["parameters"][argument] == {
        "taskOutputParameter": {
            "outputParameterKey": OUTPUTS[TRAINING_ARGUMENTS[argument]],
            "producerTask": "make-values",
        }
    }
    assert "make-values" in preprocess["dependentTasks"]


@pytest.mark.parametrize("stage", ["resolve-dataset", "preprocess", "launch-trainjob", "export-model"])
def test_every_stage_that_writes_gets_the_workspace(stage):
    def constant():
        train_model(pvc_path=dsl.WORKSPACE_PATH_PLACEHOLDER)

    def parameter(folder):
        train_model(pvc_path=folder)

    def upstream():
        train_model(pvc_path=make_values().outputs["text"])

    given = [
        compile_(constant, pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE)),
        compile_(parameter, {"folder": str}),
        compile_(upstream),
    ]
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
        "taskOutputArtifact": {"outputArtifactKey": "artifact", "producerTask": "importer"}
    }
    assert resolve["dependentTasks"] == ["importer"]
    assert set(resolve["inputs"]["parameters"]) == {
        "pvc_path",
        "dataset_split",
        "validation_uri",
        "validation_uri_split",
    }


def test_a_base_model_comes_from_an_earlier_training():
    def callers():
        first = train_model(pvc_path="/pvc/first")
        train_model(pvc_path="/pvc/second", training_base_model=first.outputs["output_model"])

    preprocess = compile_(callers).tasks["preprocess-2"]
    assert preprocess["inputs"]["artifacts"] == {
        "base_model": {"taskOutputArtifact": {"outputArtifactKey": "output_model", "producerTask": "export-model"}}
    }
    assert preprocess["dependentTasks"] == ["export-model", "resolve-dataset-2"]
    assert "training_base_model" not in preprocess["inputs"]["parameters"]


def test_a_base_model_comes_from_an_importer_and_not_from_rows():
    def callers(artifact_class):
        model = dsl.importer(artifact_uri="s3://bucket/model", artifact_class=artifact_class)
        train_model(pvc_path="/pvc", training_base_model=model.output)

    given = compile_(lambda: callers(dsl.Model)).tasks["preprocess"]["inputs"]["artifacts"]
    assert given["base_model"]["taskOutputArtifact"]["producerTask"] == "importer"
    with pytest.raises(Exception, match="Incompatible argument passed to the input 'base_model'"):
        compile_(lambda: callers(dsl.Dataset))


def test_a_base_model_artifact_is_refused_by_a_nested_osft_pipeline():
    def callers():
        model = dsl.importer(artifact_uri="s3://bucket/model", artifact_class=dsl.Model)
        osft_pipeline(dataset_uri="org/rows", training_base_model=model.output)

    with pytest.raises(InputError, match="does not pass on into a nested pipeline; use train_model"):
        compile_(callers)


def test_the_models_destination_is_known_to_the_stage_that_checks_it_and_the_one_that_pushes():
    def callers():
        train_model(pvc_path="/pvc", export_uri="s3://models/bot")

    compiled = compile_(callers)
    for stage in ("preprocess", "export-model"):
        given = compiled.tasks[stage]["inputs"]["parameters"]["export_uri"]
        assert given == {"runtimeValue": {"constant": "s3://models/bot"}}


@pytest.mark.parametrize("uri", ["models/bot", "gs://models/bot", "s3://key:secretsecret@models/bot"])
def test_a_destination_that_is_none_is_refused_when_the_pipeline_is_compiled(uri):
    with pytest.raises(InputError, match="^export_uri=") as error:
        compile_(lambda: train_model(pvc_path="/pvc", export_uri=uri))
    assert "secretsecret" not in str(error.value)


def test_rows_come_by_uri_from_a_constant_a_parameter_or_another_task():
    def constant():
        train_model(pvc_path="/pvc", dataset_uri="s3://bucket/rows.jsonl", dataset_split="test")

    def parameter(rows):
        train_model(pvc_path="/pvc", dataset_uri=rows)

    def upstream():
        train_model(pvc_path="/pvc", dataset_uri=make_values().outputs["text"])

    given = [
        compiled.tasks["resolve-dataset"]["inputs"]["parameters"]
        for compiled in (compile_(constant), compile_(parameter, {"rows": str}), compile_(upstream))
    ]
    assert [each["dataset_uri"] for each in given] == [
        {"runtimeValue": {"constant": "s3://bucket/rows.jsonl"}},
        {"componentInputParameter": "rows"},
        {"taskOutputParameter": {"outputParameterKey": "text", "producerTask": "make-values"}},
    ]
    assert given[0]["dataset_split"] == {"runtimeValue": {"constant": "test"}}


@pytest.mark.parametrize("uri", ["s3://bucket/rows.jsonl", "parameter"])
def test_an_artifact_and_a_uri_are_one_too_many_when_the_pipeline_is_compiled(uri):
    def callers(rows):
        train_model(pvc_path="/pvc", dataset=rows_artifact(), dataset_uri=rows if uri == "parameter" else uri)

    with pytest.raises(InputError, match="dataset and dataset_uri are both given; give one of them"):
        compile_(callers, {"rows": str})


def test_without_rows_it_compiles_as_the_contracts_example_does_and_warns():
    def callers():
        train_model(pvc_path="/pvc")

    with pytest.warns(UserWarning, match="train_model has no rows: give dataset_uri, or dataset"):
        compile_(callers)


def test_a_dataset_comes_from_an_upstream_component():
    def callers():
        train_model(pvc_path="/pvc", dataset=make_dataset().outputs["rows"])

    assert compile_(callers).tasks["resolve-dataset"]["inputs"]["artifacts"]["dataset"] == {
        "taskOutputArtifact": {"outputArtifactKey": "rows", "producerTask": "make-dataset"}
    }


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
        use_outputs(
            model=task.outputs["output_model"],
            metrics=task.outputs["output_metrics"],
            chart=task.outputs["output_loss_chart"],
            status=task.outputs["Output"],
        )
        return task.outputs["output_model"]

    used = compile_(callers).tasks["use-outputs"]
    assert used["inputs"]["artifacts"] == {
        name: {"taskOutputArtifact": {"outputArtifactKey": key, "producerTask": stage}}
        for name, key, stage in [
            ("model", "output_model", "export-model"),
            ("metrics", "output_metrics", "collect-metrics"),
            ("chart", "output_loss_chart", "render-loss-chart"),
        ]
    }
    assert used["inputs"]["parameters"] == {
        "status": {"taskOutputParameter": {"outputParameterKey": "Output", "producerTask": "export-model"}}
    }


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
            task = train_model(pvc_path=f"/pvc/lr-{rate}", training_learning_rate=rate)
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


# Outside a pipeline


def dataset(**attributes):
    return dsl.Dataset(**{"name": "rows", "uri": "", "metadata": {}, **attributes})


@pytest.fixture
def local_call(monkeypatch):
    """Calls train_model outside a pipeline; returns what the local run of osft_pipeline gets."""
    calls = []
    monkeypatch.setattr(
        "kfp_osft.pipelines.osft.sub_pipeline.osft_pipeline", lambda **arguments: calls.append(arguments) or "task"
    )

    def call(**arguments):
        assert train_model(**arguments) == "task"
        return calls.pop()

    return call


LOCAL_DEFAULTS = {"dataset_split": "train", "validation_uri": "", "validation_uri_split": "validation"}


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
    assert arguments == LOCAL_DEFAULTS | {"pvc_path": "/pvc", "dataset_uri": location, "training_seed": 7}


def test_outside_a_pipeline_held_out_rows_are_passed_on(local_call):
    given = {"validation_uri": "org/rows", "validation_uri_split": "test", "dataset_columns": "messages=dialog"}
    assert local_call(pvc_path="/pvc", dataset_uri="org/rows", **given).items() >= given.items()


def test_outside_a_pipeline_a_base_model_is_the_artifacts_folder(local_call):
    model = dsl.Model(name="output_model", uri="/artifacts/output_model", metadata={})
    given = local_call(pvc_path="/pvc", dataset_uri="org/rows", training_base_model=model)
    assert given["training_base_model"] == "/artifacts/output_model"


def test_outside_a_pipeline_rows_come_by_uri_too(local_call):
    arguments = local_call(pvc_path="/pvc", dataset_uri="org/rows", dataset_split="test")
    assert arguments == LOCAL_DEFAULTS | {"pvc_path": "/pvc", "dataset_uri": "org/rows", "dataset_split": "test"}


@pytest.mark.parametrize("given", [{}, {"dataset_uri": " "}])
def test_outside_a_pipeline_without_rows_is_an_input_error(local_call, given):
    with pytest.raises(
        InputError, match="dataset_uri is missing; outside a pipeline give it, or a dataset: a dsl.Data"
    ):
        train_model(pvc_path="/pvc", **given)


def test_outside_a_pipeline_an_artifact_and_a_uri_are_one_too_many(local_call):
    with pytest.raises(InputError, match="dataset and dataset_uri are both given"):
        train_model(pvc_path="/pvc", dataset=dataset(uri="/data/rows.jsonl"), dataset_uri="org/rows")


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
