"""How the stages are connected; osft_pipeline and train_model both use this."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import pipeline_channel

from kfp_osft import stages
from kfp_osft.pipelines.osft.own_folder import check_own_folder
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.stages.evaluate_model.options import checked_options


class OsftOutputs(NamedTuple):
    """Outputs of a fine-tuning, with the names of the single component's outputs."""

    output_model: dsl.Model
    output_metrics: dsl.Metrics
    output_loss_chart: dsl.HTML
    Output: str


class EvaluatedOutputs(NamedTuple):
    """OsftOutputs, and those of evaluate_model."""

    output_model: dsl.Model
    output_metrics: dsl.Metrics
    output_loss_chart: dsl.HTML
    Output: str
    output_evaluation: dsl.Metrics
    output_report: dsl.HTML
    passed: bool


class StageTasks(NamedTuple):
    """The tasks of the stages in one pipeline: six, and evaluate_model where it is asked for."""

    resolve_dataset: dsl.PipelineTask
    preprocess: dsl.PipelineTask
    launch_trainjob: dsl.PipelineTask
    collect_metrics: dsl.PipelineTask
    render_loss_chart: dsl.PipelineTask
    export_model: dsl.PipelineTask
    evaluate_model: dsl.PipelineTask | None = None

    @property
    def present(self) -> dict[str, dsl.PipelineTask]:
        """The tasks that are in the pipeline, by the names of the stages."""
        return {name: task for name, task in self._asdict().items() if task is not None}

    @property
    def last(self) -> dsl.PipelineTask:
        """The task that ends with what callers wait for: the evaluation, or else the exported model."""
        return self.evaluate_model or self.export_model

    def outputs(self) -> dict[str, pipeline_channel.PipelineChannel]:
        """The outputs, by the names of OsftOutputs or EvaluatedOutputs."""
        evaluated = self.evaluate_model.outputs if self.evaluate_model else {}
        return {
            "output_model": self.export_model.outputs["output_model"],
            "output_metrics": self.collect_metrics.outputs["output_metrics"],
            "output_loss_chart": self.render_loss_chart.outputs["output_loss_chart"],
            "Output": self.export_model.outputs["Output"],
            **{name: evaluated[name] for name in ("output_evaluation", "output_report", "passed") if evaluated},
        }


class _Pod(NamedTuple):
    cpu: str
    memory: str


#: Titles of the stages, in KFP's UI and on the terminal.
DISPLAY_NAMES = {
    "resolve_dataset": "Resolve dataset",
    "preprocess": "Preprocess",
    "launch_trainjob": "Train with OSFT",
    "collect_metrics": "Collect metrics",
    "render_loss_chart": "Render loss chart",
    "export_model": "Export model",
    "evaluate_model": "Evaluate model",
}


# Requests and limits of the stages' own pods. launch_trainjob has none here: KFP would pass them on to the training
# pods, whose resources are parameters.
_PODS = {
    "resolve_dataset": _Pod("1", "4Gi"),
    "preprocess": _Pod("2", "8Gi"),
    # Enough to compare matrices one by one.
    "collect_metrics": _Pod("1", "4Gi"),
    "render_loss_chart": _Pod("500m", "1Gi"),
    "export_model": _Pod("1", "8Gi"),
}


@dataclass(frozen=True)
class EvaluationPod:
    """Resources of the pod of evaluate_model, which loads one model after the other: in float32 up to 8 GB of weights,
    larger ones as they were saved.

    Attributes:
        cpu, memory: Kubernetes quantities.
        gpus: NVIDIA GPUs; 0 measures on CPU.
        image: container image instead of the stages'; needed with a GPU, as theirs has a torch for CPUs.
    """

    cpu: str = "4"
    memory: str = "24Gi"
    gpus: int = 0
    image: str = ""


class Evaluation(NamedTuple):
    """EVALUATION_PARAMETERS by name, constants or channels, and the pod they are used in."""

    parameters: Mapping[str, Any]
    pod: EvaluationPod = EvaluationPod()


def check_constants(training: Mapping[str, Any]) -> None:
    """Checks the training parameters whose values are known when a pipeline is compiled; preprocess checks all of them.

    Raises:
        InputError: the values that are not allowed, one per line.
    """
    check_parameters({name: value for name, value in training.items() if not _is_known_later(value)})


def check_evaluation_constants(evaluation: Mapping[str, Any]) -> None:
    """Checks the parameters of an evaluation whose values are known when a pipeline is compiled.

    Raises:
        InputError: the values that are not allowed, one per line.
    """
    checked_options({name: value for name, value in evaluation.items() if not _is_known_later(value)})


def _is_known_later(value: Any) -> bool:
    # Also inside an f-string; KFP's own placeholders are strings with double braces.
    return bool(pipeline_channel.extract_pipeline_channels_from_any(value)) or (
        isinstance(value, str) and "{{" in value
    )


class RowSources(NamedTuple):
    """Where the rows come from: constants or channels for resolve_dataset's arguments. dataset replaces dataset_uri."""

    dataset_uri: Any = ""
    dataset_split: Any = "train"
    dataset: Any = None
    validation_uri: Any = ""
    validation_uri_split: Any = "validation"


def is_artifact(value: Any) -> bool:
    """Whether the value is another task's output artifact."""
    return isinstance(value, pipeline_channel.PipelineArtifactChannel)


def add_stages(
    pvc_path: Any,
    rows: RowSources,
    training: Mapping[str, Any],
    check_matrices: Any = 0,
    evaluation: Evaluation | None = None,
) -> StageTasks:
    """Adds the six stages, and evaluate_model if asked for, to the pipeline that is being defined.

    Args:
        pvc_path: workspace folder, as in resolve_dataset.
        rows: to train on and to hold out.
        training: training parameters by name; preprocess has a default for each one left out. training_base_model may
            be another task's output artifact. export_uri is where evaluate_model publishes the model, or without an
            evaluation export_model.
        check_matrices: as in collect_metrics.
        evaluation: None leaves evaluate_model out.

    Raises:
        InputError: a constant that is not allowed; outputs of tasks and pipeline parameters are checked by the stages.
            A pvc_path that another training of the pipeline has, see check_own_folder.
    """
    if is_artifact(model := training.get("training_base_model")):
        others = {name: value for name, value in training.items() if name != "training_base_model"}
        training = {**others, "base_model": model}
    check_constants({name: value for name, value in training.items() if name != "base_model"})
    unused = "dataset" if rows.dataset is None else "dataset_uri"
    sources = {name: value for name, value in rows._asdict().items() if name != unused}
    resolved = stages.resolve_dataset(pvc_path=pvc_path, **sources)
    prepared = stages.preprocess(
        dataset_path=resolved.outputs["dataset_path"],
        pvc_path=pvc_path,
        validation_path=resolved.outputs["validation_path"],
        **training,
    )
    launched = stages.launch_trainjob(
        training_config=prepared.outputs["training_config"],
        pvc_path=pvc_path,
        run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        task_name=dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
    )
    checkpoint_dir = launched.outputs["checkpoint_dir"]
    collected = stages.collect_metrics(checkpoint_dir=checkpoint_dir, check_matrices=check_matrices)
    chart = stages.render_loss_chart(metrics_path=collected.outputs["metrics_path"])
    publishing = {"export_uri": training["export_uri"]} if "export_uri" in training else {}
    if evaluation is None:
        exported = stages.export_model(checkpoint_dir=checkpoint_dir, pvc_path=pvc_path, **publishing)
        evaluated = None
    else:
        # A model is published when it has passed the gate.
        exported = stages.export_model(checkpoint_dir=checkpoint_dir, pvc_path=pvc_path)
        evaluated = _add_evaluation(evaluation, checkpoint_dir, pvc_path, publishing, exported)
    tasks = StageTasks(resolved, prepared, launched, collected, chart, exported, evaluated)
    check_own_folder(pvc_path, tasks.present.values())
    for task in tasks.present.values():
        # KFP's cache key is the arguments: it does not notice that the rows at a path, or the workspace, have changed.
        # Each stage recognizes its own earlier result by what it was made from.
        task.set_caching_options(False)
    for name, pod in _PODS.items():
        task = getattr(tasks, name)
        task.set_cpu_request(pod.cpu).set_cpu_limit(pod.cpu)
        task.set_memory_request(pod.memory).set_memory_limit(pod.memory)
    for name, task in tasks.present.items():
        task.set_display_name(DISPLAY_NAMES[name])
    return tasks


def _add_evaluation(
    evaluation: Evaluation,
    checkpoint_dir: Any,
    pvc_path: Any,
    publishing: Mapping[str, Any],
    exported: dsl.PipelineTask,
) -> dsl.PipelineTask:
    check_evaluation_constants(evaluation.parameters)
    task = stages.evaluate_model(
        checkpoint_dir=checkpoint_dir, pvc_path=pvc_path, **publishing, **evaluation.parameters
    )
    task.after(exported)
    pod = evaluation.pod
    task.set_cpu_request(pod.cpu).set_cpu_limit(pod.cpu)
    task.set_memory_request(pod.memory).set_memory_limit(pod.memory)
    if pod.gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(str(pod.gpus))
    if pod.image:
        task.set_container_image(pod.image)
    return task
