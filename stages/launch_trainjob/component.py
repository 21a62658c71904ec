"""Stage 3: the training."""

from typing import NamedTuple

from kfp import dsl

from kfp_osft.stages.component import stage


@stage(
    # Forwarded to the TrainJob's pods. Environment and volumes stay with the launcher too, which needs the cluster's
    # credentials and the workspace.
    task_config_passthroughs=[
        dsl.TaskConfigField.RESOURCES,
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        dsl.TaskConfigField.KUBERNETES_AFFINITY,
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ],
)
def launch_trainjob(
    training_config: str,
    pvc_path: str,
    run_name: str = "",
    run_id: str = "",
    task_name: str = "",
    kubernetes_config: dsl.TaskConfig = None,  # pyright: ignore[reportArgumentType]  # KFP allows no Optional here
) -> NamedTuple("Outputs", [("checkpoint_dir", str), ("trainjob_name", str)]):
    """Trains the model with OSFT and follows the training to its end.

    It creates a TrainJob with KUBERNETES_SERVER_URL and KUBERNETES_AUTH_TOKEN, or with the pod's service account. With
    the environment variable OSFT_LAUNCHER=local the training runs in a process of this computer.

    Args:
        training_config: What preprocess returned.
        pvc_path: Workspace folder that preprocess wrote to.
        run_name: Name of the pipeline run, with which the TrainJob's name begins.
        run_id: Id of the pipeline run; with task_name it is in the TrainJob's name, so that a retry finds it again.
        task_name: Name of this task in the run.
        kubernetes_config: Filled in by KFP: volumes, environment, resources and placement for the training pods.

    Returns:
        checkpoint_dir: Folder of the checkpoints and of the trainer's log.
        trainjob_name: Name of the TrainJob.
    """
    from kfp_osft.stages.launch_trainjob.launch import launch

    return launch(training_config, pvc_path, kubernetes_config, run_name, run_id, task_name)
