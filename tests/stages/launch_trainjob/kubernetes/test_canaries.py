"""Secrets of a task go to the training's pods as a Secret, and are in nothing else that the launcher sends or says."""

import json
import sys

import pytest

from fakes.kubernetes import Cluster, Job
from helpers.training_configs import workspace_task_config
from kfp_osft.shared.reporting import redaction
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.redaction import guarded_output

NAMES = [
    *("CLICKHOUSE_PASSWORD", "DATABASE_URL", "DB_PASS", "DBPASS", "GITHUB_PAT", "HF_TOKEN", "HF_TOKEN_READ"),
    *("OPENAI_API_KEY", "PRIVATE_KEY", "SLACK_WEBHOOK_URL", "SSHKEY", "ENCRYPTION_KEY", "apiKey"),
]
CANARIES = {name: f"canary-{name}" for name in NAMES} | {
    "HTTPS_PROXY": "http://robot:canary-1/2@proxy:3128",
    "COLOR": "hf_canary0123456789abcdefghijABCDEFGH",
}


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setattr(redaction, "_KEPT", set())
    # The launcher's own; with the newline that `echo` adds.
    monkeypatch.setenv("HF_TOKEN", f"{CANARIES['HF_TOKEN']}\n")
    return workspace_task_config(
        tmp_path, env=[{"name": name, "value": value} for name, value in CANARIES.items() if name != "HF_TOKEN"]
    )


def chatty(job: Job) -> None:
    job.start()
    for value in CANARIES.values():
        job.pod(0).log(f"kfp-osft: the training says {value} \x1b]52;c;Zm9v\x07\u202e")
    job.wait_for_log_reader()
    job.complete()


def test_what_is_secret_goes_to_the_cluster_in_a_secret_alone(launch, task, tmp_path, capsys):
    with Cluster(life=chatty) as cluster, guarded_output():
        launch(cluster, task=task)
        (trainjob,) = cluster.trainjobs
        (secret,) = cluster.secrets.values()
    assert {name: value.strip() for name, value in secret.items()} == CANARIES
    assert "canary" not in json.dumps(trainjob).lower()
    said = capsys.readouterr()
    everything = said.out + said.err + (tmp_path / "training.log").read_text()
    assert "the training says ***" in said.out
    assert "canary" not in everything.lower() and "\x1b" not in everything and "\u202e" not in everything


@pytest.mark.parametrize("resource", ["secrets", "trainjobs"])
def test_a_webhook_that_repeats_the_secret_is_not_repeated(launch, task, resource, capsys):
    repeated = f'admission webhook "policy" denied the request: {json.dumps(CANARIES)} \x1b]52;c;Zm9v\x07'
    with Cluster() as cluster, guarded_output():
        cluster.fail(99, 403, message=repeated, verb="create", resource=resource)
        with pytest.raises(InputError) as error:
            launch(cluster, task=task)
        print(error.value, file=sys.stderr)
    said = capsys.readouterr()
    assert "denied the request" in said.err and "canary" not in (said.out + said.err).lower()
    assert "\x1b" not in said.err
