"""The connection to the cluster: its address, the token and the trusted certificate authorities."""

import time
import types

import pytest

from fakes.kubernetes import Cluster
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.launch_trainjob.kubernetes import client, connection
from kfp_osft.stages.launch_trainjob.kubernetes.connection import connect
from kfp_osft.stages.launch_trainjob.kubernetes.errors import Untrusted


@pytest.fixture(autouse=True)
def outside_of_any_cluster(monkeypatch):
    for name in ("KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN", "KUBERNETES_NAMESPACE", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def test_without_any_identity_there_is_no_cluster(monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "SERVICE_ACCOUNT", tmp_path)
    assert not connection.is_configured()
    with pytest.raises(InputError, match="there is no cluster: neither KUBERNETES_SERVER_URL"):
        connect()


@pytest.mark.parametrize(
    ("given", "missing"),
    [("KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"), ("KUBERNETES_AUTH_TOKEN", "KUBERNETES_SERVER_URL")],
)
def test_one_of_url_and_token_names_the_missing_one(monkeypatch, given, missing):
    monkeypatch.setenv(given, "https://secret-value")
    with pytest.raises(InputError, match=f"^{given} is set and {missing} is not"):
        connect()


def test_a_url_without_tls_is_refused(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVER_URL", "http://cluster")
    monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", "token")
    with pytest.raises(InputError, match="KUBERNETES_SERVER_URL=http://cluster is not allowed"):
        connect()


def test_an_unknown_namespace_is_an_error_that_says_how_to_give_it(monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVER_URL", "https://cluster")
    monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", "token")
    with pytest.raises(InputError, match="KUBERNETES_NAMESPACE"):
        connect()
    monkeypatch.setenv("KUBERNETES_NAMESPACE", "mine")
    assert connect().namespace == "mine"


@pytest.mark.parametrize(
    "request_",
    [
        lambda cluster: cluster.trainer_api(),
        lambda cluster: cluster.pods(""),
        lambda cluster: cluster.delete_trainjob("train"),
    ],
    ids=["OpenAPI", "list", "delete"],
)
def test_a_certificate_of_an_unknown_authority_fails_at_once_and_names_the_remedy(monkeypatch, request_):
    def sleep(seconds: float) -> None:
        pytest.fail("it is retried")

    monkeypatch.setattr(client, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with Cluster() as cluster:
        monkeypatch.setenv("KUBERNETES_SERVER_URL", cluster.url)
        monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", cluster.token)
        monkeypatch.setenv("KUBERNETES_NAMESPACE", "ns")
        with pytest.raises(Untrusted, match="its certificate is not trusted .*OSFT_CA_BUNDLE"):
            request_(connect())
        assert not cluster.requests
