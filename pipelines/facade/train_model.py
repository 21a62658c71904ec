"""train_model: the facade with the signature of the single OSFT component."""

import warnings
from collections.abc import Mapping
from typing import Any, Optional

from kfp import dsl
from kfp.dsl import pipeline_context

from kfp_osft.pipelines.facade.osft_task import OsftTask
from kfp_osft.pipelines.facade.signature import contract_parameters
from kfp_osft.pipelines.facade.task_config import apply_task_config
from kfp_osft.pipelines.osft.wiring import Evaluation, EvaluationPod, RowSources, add_stages
from kfp_osft.pipelines.osft.workflow_size import MOST, estimate_so_far
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.resolve_dataset.source import location_in


@contract_parameters
def train_model(
    pvc_path: str,
    dataset: dsl.Input[dsl.Dataset] = None,  # pyright: ignore[reportArgumentType]  KFP refuses Optional artifacts
    kubernetes_config: Optional[dsl.TaskConfig] = None,
    dataset_uri: str = "",
    dataset_split: str = "train",
    validation_uri: str = "",
    validation_uri_split: str = "validation",
    evaluation: Optional[dict[str, Any]] = None,
    **training: Any,
) -> dsl.PipelineTask:
    """Fine-tunes a language model with OSFT; a drop-in replacement for the single OSFT component.

    Inside a pipeline it adds the stages to that pipeline and returns one task that represents them. Outside a
    pipeline it runs them at once with kfp.local (call kfp.local.init first) and returns the finished task.
    training_base_model may also be a Model artifact: task.outputs["output_model"] of an earlier training.

    Args:
        pvc_path: Workspace PVC root path (use dsl.WORKSPACE_PATH_PLACEHOLDER), or a folder of this computer. KFP
            removes a run's own workspace when the run has succeeded; the outputs stay.
        dataset: Input training dataset artifact: its data, or what its metadata pvc_path, pvc_dir or artifact_path
            names.
        training parameters:
        kubernetes_config: Volumes, environment, resources and placement of the training pods, in addition to what is
            set on the returned task. Only inside a pipeline.
        dataset_uri: Where the rows are, instead of dataset, as resolve_dataset takes it: a path, pvc://path,
            s3://bucket/key or a prefix, an http(s) URL, org/name of a Hugging Face dataset.
        dataset_split: Split of a Hugging Face dataset, or of a DatasetDict that was saved to disk.
        validation_uri: Rows to hold out from the training, as dataset_uri of resolve_dataset; empty for none.
        validation_uri_split: Split of validation_uri.
        evaluation: Parameters of evaluate_model by name, such as {"max_forgetting": 0.05, "gate": True}; {} for its
            defaults. It then runs on the exported model, and `.after(task)` waits for it; on a cluster its code comes
            from kfp-osft-evaluate.yaml. None for no evaluation.

    Returns:
        A task whose outputs are output_model, output_metrics, output_loss_chart and Output ("training completed"); with
        an evaluation also output_evaluation, output_report and passed.

    Raises:
        TypeError: unknown, missing or positional arguments.
        InputError: dataset and dataset_uri are both given; min_improvement without rows to hold out; a field of
            kubernetes_config that KFP cannot express; outside a pipeline, kubernetes_config, neither dataset nor
            dataset_uri, or a dataset that is not an artifact.
    """
    # The value of a pipeline's parameter, or of another task's output, is not known yet.
    has_uri = not isinstance(dataset_uri, str) or bool(dataset_uri.strip())
    if dataset is not None and has_uri:
        raise InputError("dataset and dataset_uri are both given; give one of them")
    # None means: not given, so that the library's default applies.
    training = {name: value for name, value in training.items() if value is not None}
    if evaluation is not None:
        _check_held_out(evaluation, validation_uri, training.get("training_validation_split"))
    if pipeline := pipeline_context.Pipeline.get_default_pipeline():
        if dataset is None and not has_uri:
            # Not an error, since the contract's own example has none; resolve_dataset reports it.
            warnings.warn("train_model has no rows: give dataset_uri, or dataset", stacklevel=3)
        rows = RowSources(dataset_uri, dataset_split, dataset, validation_uri, validation_uri_split)
        evaluated = None if evaluation is None else Evaluation(evaluation)
        task = OsftTask(add_stages(pvc_path, rows, training, evaluation=evaluated))
        if kubernetes_config is not None:
            apply_task_config(task.tasks.launch_trainjob, kubernetes_config)
        if (size := estimate_so_far(pipeline)).share > MOST:
            warnings.warn(f"the pipeline is getting too large: {size.description}", stacklevel=3)
        return task
    if kubernetes_config is not None:
        raise InputError("kubernetes_config: a run on this computer has no pods; leave it out")
    if isinstance(model := training.get("training_base_model"), dsl.Artifact):
        training["training_base_model"] = model.uri
    from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings, build_osft_pipeline, osft_pipeline

    pipeline = osft_pipeline
    if evaluation is not None:
        pipeline = build_osft_pipeline(PipelineSettings(evaluation=EvaluationPod()))
    return pipeline(
        pvc_path=pvc_path,
        dataset_uri=dataset_uri if has_uri else _location(dataset),
        dataset_split=dataset_split,
        validation_uri=validation_uri,
        validation_uri_split=validation_uri_split,
        **training,
        **(evaluation or {}),
    )


def _check_held_out(evaluation: Mapping[str, Any], *held_out: Any) -> None:
    """Sees that there are rows to measure an improvement on; what is not known yet may bring some."""
    wanted = evaluation.get("min_improvement")
    if isinstance(wanted, int | float) and wanted > 0 and not any(held_out):
        raise InputError(
            f"min_improvement={wanted:g} needs held-out rows: give validation_uri, or training_validation_split"
        )


def _location(dataset: Any) -> str:
    """Location of an artifact's rows, for a local run: kfp.local does not accept artifacts as arguments."""
    if dataset is None:
        raise InputError(
            "dataset_uri is missing; outside a pipeline give it, or a dataset: a dsl.Dataset whose uri is the path of "
            "the rows"
        )
    if not isinstance(dataset, dsl.Artifact):
        raise InputError(
            f"dataset is a {type(dataset).__name__}; outside a pipeline give a dsl.Dataset, or dataset_uri"
        )
    _, location = location_in(dataset.metadata or {}) or ("", "")
    return dataset.uri or location
