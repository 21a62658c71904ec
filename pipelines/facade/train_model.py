"""train_model: the facade with the signature of the single OSFT component."""

from typing import Any, Optional

from kfp import dsl
from kfp.dsl import pipeline_context

from kfp_osft.pipelines.facade.osft_task import OsftTask
from kfp_osft.pipelines.facade.signature import contract_parameters
from kfp_osft.pipelines.facade.task_config import apply_task_config
from kfp_osft.pipelines.osft.wiring import add_stages
from kfp_osft.shared.reporting.errors import InputError


@contract_parameters
def train_model(
    pvc_path: str,
    dataset: Optional[dsl.Input[dsl.Dataset]] = None,
    kubernetes_config: Optional[dsl.TaskConfig] = None,
    **training: Any,
) -> dsl.PipelineTask:
    """Fine-tunes a language model with OSFT; callable where the single OSFT component was.

    Inside a pipeline it adds the six stages to that pipeline and returns one task that stands for them. Outside it
    runs them at once with kfp.local (call kfp.local.init first) and returns the finished task.

    Args:
        pvc_path: Workspace PVC root path (use dsl.WORKSPACE_PATH_PLACEHOLDER), or a folder of this computer.
        dataset: Input training dataset artifact: its data, or what its metadata pvc_path, pvc_dir or artifact_path
            names.
        training parameters:
        kubernetes_config: Volumes, environment, resources and placement of the training pods, in addition to what is
            set on the returned task. Only in a pipeline.

    Returns:
        A task whose outputs are output_model, output_metrics, output_loss_chart and Output ("training completed").

    Raises:
        TypeError: unknown, missing or positional arguments.
        InputError: a field of kubernetes_config that KFP cannot express; outside a pipeline, kubernetes_config, or a
            dataset that is missing or is not an artifact.
    """
    # None means: not passed, the default of the library holds.
    training = {name: value for name, value in training.items() if value is not None}
    if pipeline_context.Pipeline.get_default_pipeline() is not None:
        task = OsftTask(add_stages(pvc_path, training, dataset=dataset))
        if kubernetes_config is not None:
            apply_task_config(task.tasks.launch_trainjob, kubernetes_config)
        return task
    if kubernetes_config is not None:
        raise InputError("kubernetes_config: a run on this computer has no pods; leave it out")
    from kfp_osft.pipelines.osft.sub_pipeline import osft_pipeline

    return osft_pipeline(pvc_path=pvc_path, dataset_uri=_location(dataset), **training)


def _location(dataset: Any) -> str:
    """Where the rows of an artifact object lie, for a local run: kfp.local takes no artifact as an argument."""
    if dataset is None:
        raise InputError("dataset is missing; outside a pipeline give a dsl.Dataset with the path of the rows as uri")
    if not isinstance(dataset, dsl.Artifact):
        raise InputError(f"dataset is a {type(dataset).__name__}; outside a pipeline give a dsl.Dataset")
    metadata = dataset.metadata or {}
    return next(
        (
            str(location)
            for location in (dataset.uri, *(metadata.get(key) for key in ("pvc_path", "pvc_dir", "artifact_path")))
            if location
        ),
        "",
    )
