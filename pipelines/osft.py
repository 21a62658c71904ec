"""osft_pipeline: the OSFT fine-tuning as one pipeline, to upload, to run locally, to nest in others."""

from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from kfp_osft.pipelines.osft_task import OsftTask
from kfp_osft.pipelines.signature import pipeline_parameters
from kfp_osft.pipelines.wiring import OsftOutputs, add_stages

#: Secrets of the RHOAI project, by the names that users of the present pipelines have, all optional: name of the
#: Secret -> its keys, which are the environment variables' names too.
SECRETS = {
    "kubernetes-credentials": ("KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"),
    "hf-token": ("HF_TOKEN",),
    "oci-pull-secret-model-download": ("OCI_PULL_SECRET_MODEL_DOWNLOAD",),
    "s3-secret": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_S3_ENDPOINT", "AWS_DEFAULT_REGION",
                  "AWS_S3_BUCKET"),
}

# Access mode and size must be given; several training pods need the same volume at once.
_WORKSPACE = dsl.WorkspaceConfig(
    size="100Gi",
    kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"accessModes": ["ReadWriteMany"]}),
)


@dsl.pipeline(
    name="osft-pipeline",
    display_name="OSFT fine-tuning",
    pipeline_config=dsl.PipelineConfig(workspace=_WORKSPACE),
)
@pipeline_parameters
def osft_pipeline(
    pvc_path: str = WORKSPACE_MOUNT_PATH,
    dataset_uri: str = "",
    dataset_split: str = "train",
    **training: Any,
) -> OsftOutputs:
    """Fine-tunes a language model with OSFT (Orthogonal Subspace Fine-Tuning, arXiv:2504.07097).

    It teaches the model something new and changes its weights only in the directions that matter least to what it
    knows.

    Args:
        pvc_path: Workspace folder; the run's own workspace volume unless given. The model ends up in its final_model.
        dataset_uri: A path, pvc://path (below pvc_path), org/name or hf://org/name[@revision][/config] of a Hugging
            Face dataset. JSON Lines, JSON or Parquet, a file or a folder, with conversations in `messages`.
        dataset_split: Split of a Hugging Face dataset.
        training parameters:

    Returns:
        output_model: The model as transformers loads it.
        output_metrics: Loss, steps, tokens, speed.
        output_loss_chart: The loss chart.
        Output: "training completed".
    """
    tasks = add_stages(pvc_path, training, dataset_uri=dataset_uri, dataset_split=dataset_split)
    task = OsftTask(tasks)
    for secret, names in SECRETS.items():
        kubernetes.use_secret_as_env(task, secret, {name: name for name in names}, optional=True)
    return OsftOutputs(**tasks.outputs())
