import base64
import json

import pytest

from kfp_osft.shared.parameters.environment import blot_out, holds_secret, is_secret, secret_values

SECRETS = [
    "API_AUTH",
    "API_KEY",
    "AUTH_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_CONNECTION_STRING",
    "CLICKHOUSE_PASSWORD",
    "COMET_API_KEY",
    "DATABASE_URL",
    "DBPASS",
    "DB_PASS",
    "DB_PASSWORD",
    "DOCKERCONFIGJSON",
    "DOCKER_AUTH_CONFIG",
    "ENCRYPTION_KEY",
    "GCP_SERVICE_ACCOUNT_JSON",
    "GH_TOKEN",
    "GITHUB_PAT",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "GPG_PASSPHRASE",
    "HF_TOKEN",
    "HF_TOKEN_READ",
    "HUGGING_FACE_HUB_TOKEN",
    "JWT",
    "KUBERNETES_AUTH_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MONGODB_URI",
    "MYSQL_PWD",
    "NEPTUNE_API_TOKEN",
    "OCI_PULL_SECRET_MODEL_DOWNLOAD",
    "OPENAI_API_KEY",
    "PGPASSWORD",
    "PRIVATE_KEY",
    "REDIS_PASSWORD",
    "REDIS_URL",
    "SENTRY_DSN",
    "SLACK_WEBHOOK_URL",
    "SSHKEY",
    "SSH_PRIVATE_KEY",
    "WANDB_API_KEY",
    "WANDB_KEY",
    "apiKey",
    "client_secret",
    "dbPassword",
]
NO_SECRETS = [
    "AWS_S3_BUCKET",
    "AWS_S3_ENDPOINT",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_TOKEN_PATH",
    "HF_USE_AUTH_TOKEN",
    "HOME",
    "KEYBOARD",
    "KUBERNETES_SERVER_URL",
    "MAX_TOKENS",
    "MONKEY",
    "NCCL_DEBUG",
    "OLDPWD",
    "OMP_NUM_THREADS",
    "PATH",
    "PWD",
    "PYTHONHASHSEED",
    "SSH_AUTH_SOCK",
    "TOKENIZERS_PARALLELISM",
    "WANDB_PROJECT",
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secrets_name_is_known(name: str):
    assert is_secret(name)
    assert secret_values({name: "canary-value\n"}) == ["canary-value"]


@pytest.mark.parametrize("name", NO_SECRETS)
def test_other_names_are_not_taken_for_secrets(name: str):
    assert not is_secret(name)
    assert secret_values({name: "some-value"}) == []


def test_a_password_in_a_url_is_a_secret_whatever_the_name():
    proxy = "http://user:p%40ss-word@proxy:3128"
    assert holds_secret("HTTPS_PROXY", proxy) and not holds_secret("HTTPS_PROXY", "http://proxy:3128")
    assert set(secret_values({"HTTPS_PROXY": proxy})) == {"p%40ss-word", "p@ss-word"}


def test_a_token_is_a_secret_by_its_look():
    assert holds_secret("COLOR", "hf_0123456789abcdefghijABCDEFGHIJ")
    assert not holds_secret("COLOR", "hf_format") and not holds_secret("IMAGE", f"registry@sha256:{'ab' * 32}")


def test_what_is_inside_a_docker_config_is_secret_too():
    auth = base64.b64encode(b"robot:canary-password").decode()
    content = json.dumps({"auths": {"quay.io": {"auth": auth, "identitytoken": "canary-token"}}})
    found = secret_values({"OCI_PULL_SECRET_MODEL_DOWNLOAD": content})
    assert {auth, "canary-password", "canary-token", "robot:canary-password"} < set(found)
    assert blot_out("robot:canary-password canary-token quay.io", found) == "*** *** quay.io"


def test_the_lines_of_a_key_are_secret_each():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"
    assert "kqhkiG9w0BAQEF" in secret_values({"SSH_PRIVATE_KEY": key})
