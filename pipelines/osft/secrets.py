"""The Secrets of a project that the pipelines use; all of them are optional."""

#: Purpose of a Secret -> its keys, which are also the names of the environment variables.
SECRET_KEYS = {
    "kubernetes": ("KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"),
    "hugging_face": ("HF_TOKEN",),
    "oci": ("OCI_PULL_SECRET_MODEL_DOWNLOAD",),
    # A data connection's names, and the AWS SDK's.
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_S3_ENDPOINT",
        "AWS_DEFAULT_REGION",
        "AWS_S3_BUCKET",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
    ),
    "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AUTH"),
    # Instead of the service account's token; and a tokenizer for its jobs.
    "eval_hub": ("EVAL_HUB_TOKEN", "EVAL_HUB_TOKENIZER"),
}
#: Purpose -> name of the Secret, which the present pipelines use.
SECRET_NAMES = {
    "kubernetes": "kubernetes-credentials",
    "hugging_face": "hf-token",
    "oci": "oci-pull-secret-model-download",
    "s3": "s3-secret",
    "mlflow": "mlflow-credentials",
    "eval_hub": "eval-hub-credentials",
}
