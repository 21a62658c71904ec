"""The test cluster as an API server, asked by the real client: connections, rights, deletion, faults."""

import http.client
import json
import socket
import ssl
import time

import pytest
import urllib3
from kubernetes.client.exceptions import ApiException

from fakes.kubernetes import ROLE, SEES_RUNTIMES, Cluster, rule, without
from helpers.kubernetes_requests import (
    TRAINJOBS,
    Launcher,
    owned_secret,
    refusal,
    trainjob,
    until,
    writes,
)

# Connections and tokens


def test_a_client_without_the_clusters_ca_does_not_get_through():
    with Cluster() as cluster, pytest.raises(urllib3.exceptions.SSLError):
        urllib3.PoolManager(retries=False).request("GET", f"{cluster.url}/version")


def test_one_connection_carries_many_requests():
    with Cluster() as cluster:
        port = int(cluster.url.rsplit(":", 1)[1])
        context = ssl.create_default_context(cafile=str(cluster.ca_file))
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
        for _ in range(3):
            connection.request("GET", "/version", headers={"Authorization": f"Bearer {cluster.token}"})
            assert connection.getresponse().read()
            own = connection.sock.getsockname()
        assert connection.sock.getsockname() == own


def test_a_rotated_token_makes_the_old_one_worth_nothing():
    with Cluster() as cluster:
        launcher = Launcher(cluster)
        assert launcher.pods() == []
        cluster.rotate_token()
        status, body = refusal(launcher.pods)
        assert (status, body["reason"], body["message"]) == (401, "Unauthorized", "Unauthorized")
        assert cluster.token_file.read_text() == cluster.token
        assert Launcher(cluster).pods() == []
        assert [request.token_known for request in cluster.requests] == [True, False, True]


def test_requests_are_recorded_with_what_they_asked():
    with Cluster() as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob(), field_validation="Strict")
        launcher.pods("a=b")
        create, listed = cluster.requests
        assert (create.verb, create.resource, create.status) == ("create", "trainjobs", 201)
        assert create.query == {"fieldValidation": "Strict"} and create.body["metadata"]["name"] == "train"
        assert listed.query == {"labelSelector": "a=b"} and str(listed) == "list pods -> 200"
        assert cluster.asked(verb="list") == [listed]


# Rights


@pytest.mark.parametrize(
    ("rules", "call", "message"),
    [
        (
            without(ROLE, "trainjobs", "create"),
            lambda launcher: launcher.create(trainjob()),
            'trainjobs.trainer.kubeflow.org is forbidden: User "system:serviceaccount:ns:launcher" cannot create '
            'resource "trainjobs" in API group "trainer.kubeflow.org" in the namespace "ns"',
        ),
        (
            without(ROLE, "secrets"),
            lambda launcher: launcher.core.create_namespaced_secret("ns", {"metadata": {}}),
            'secrets is forbidden: User "system:serviceaccount:ns:launcher" cannot create resource "secrets" '
            'in API group "" in the namespace "ns"',
        ),
        (
            ROLE,
            lambda launcher: launcher.core.read_namespaced_secret("train", "ns"),
            'secrets "train" is forbidden: User "system:serviceaccount:ns:launcher" cannot get resource "secrets" '
            'in API group "" in the namespace "ns"',
        ),
        (
            without(ROLE, "pods/log"),
            lambda launcher: launcher.core.read_namespaced_pod_log("p", "ns"),
            'pods "p" is forbidden: User "system:serviceaccount:ns:launcher" cannot get resource "pods/log" '
            'in API group "" in the namespace "ns"',
        ),
        (
            ROLE,
            lambda launcher: launcher.core.list_namespaced_pod("other"),
            'pods is forbidden: User "system:serviceaccount:ns:launcher" cannot list resource "pods" '
            'in API group "" in the namespace "other"',
        ),
        (
            ROLE,
            lambda launcher: launcher.custom.list_cluster_custom_object(*TRAINJOBS[:2], "clustertrainingruntimes"),
            'clustertrainingruntimes.trainer.kubeflow.org is forbidden: User "system:serviceaccount:ns:launcher" '
            'cannot list resource "clustertrainingruntimes" in API group "trainer.kubeflow.org" at the cluster scope',
        ),
        (
            ROLE,
            lambda launcher: launcher.custom.list_namespaced_custom_object(*TRAINJOBS),
            'trainjobs.trainer.kubeflow.org is forbidden: User "system:serviceaccount:ns:launcher" cannot list '
            'resource "trainjobs" in API group "trainer.kubeflow.org" in the namespace "ns"',
        ),
    ],
)
def test_what_the_role_does_not_grant_is_forbidden_in_the_servers_words(rules, call, message):
    with Cluster(rules=rules) as cluster:
        status, body = refusal(lambda: call(Launcher(cluster)))
        assert (status, body["reason"], body["message"]) == (403, "Forbidden", message)


def test_runtimes_are_listed_where_the_role_grants_it():
    with Cluster(rules=[*ROLE, *SEES_RUNTIMES], runtimes=["own"]) as cluster:
        custom = Launcher(cluster).custom
        shared = custom.list_cluster_custom_object(*TRAINJOBS[:2], "clustertrainingruntimes")["items"]
        assert [one["metadata"]["name"] for one in shared] == ["torch-distributed", "training-hub"]
        own = custom.list_namespaced_custom_object(*TRAINJOBS[:3], "trainingruntimes")["items"]
        assert [one["metadata"]["name"] for one in own] == ["own"]
        assert custom.get_cluster_custom_object(*TRAINJOBS[:2], "clustertrainingruntimes", "training-hub")["spec"]


def test_an_owner_reference_that_blocks_deletion_takes_a_right_of_its_own():
    with Cluster() as cluster:
        body = trainjob()
        body["metadata"]["ownerReferences"] = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": cluster.launcher_pod,
                "uid": cluster.launcher_uid,
                "blockOwnerDeletion": True,
            }
        ]
        status, answer = refusal(lambda: Launcher(cluster).create(body))
        assert status == 403 and "cannot set blockOwnerDeletion" in answer["message"]
        cluster.rules.append(rule("", "pods/finalizers", "update"))
        Launcher(cluster).create(body)


# Creating and deleting


def test_a_dry_run_says_all_and_creates_nothing():
    with Cluster() as cluster:
        launcher = Launcher(cluster)
        assert launcher.create(trainjob(), dry_run="All")["metadata"]["uid"]
        assert refusal(lambda: launcher.create(trainjob(numNodes="x"), dry_run="All"))[0] == 422
        assert cluster.trainjobs == [] and cluster.jobs == []


def test_a_second_trainjob_of_a_name_already_exists():
    with Cluster() as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        status, answer = refusal(lambda: launcher.create(trainjob()))
        assert (status, answer["reason"], answer["message"]) == (
            409,
            "AlreadyExists",
            'trainjobs.trainer.kubeflow.org "train" already exists',
        )


def test_deleting_in_the_foreground_keeps_the_trainjob_until_all_it_owns_is_gone():
    with Cluster(life=lambda job: (job.start(), job.wait_for_deletion())) as cluster:
        launcher = Launcher(cluster)
        launcher.core.create_namespaced_secret("ns", owned_secret(launcher.create(trainjob())))
        assert cluster.secrets == {"train-env": {"token": "geheim"}}
        until(launcher.pods)
        launcher.delete(propagation_policy="Foreground")
        assert cluster.requests[-1].query == {"propagationPolicy": "Foreground"}
        terminating = launcher.get()["metadata"]
        assert terminating["deletionTimestamp"] and terminating["finalizers"] == ["foregroundDeletion"]
        assert refusal(lambda: launcher.create(trainjob()))[1]["message"].startswith("object is being deleted: ")
        cluster.wait_until(lambda: not cluster.trainjobs)
        assert cluster.pods == [] and cluster.secrets == {}
        status, answer = refusal(launcher.get)
        assert (status, answer["reason"], answer["message"]) == (
            404,
            "NotFound",
            'trainjobs.trainer.kubeflow.org "train" not found',
        )


def test_deleting_in_the_background_takes_the_trainjob_at_once_and_its_pods_later():
    with Cluster(life=lambda job: (job.start(), job.wait_for_deletion())) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(launcher.pods)
        assert launcher.delete()["status"] == "Success"
        assert refusal(launcher.get)[0] == 404
        assert launcher.pods()[0].metadata.deletion_timestamp
        until(lambda: not launcher.pods())


def test_a_precondition_keeps_a_trainjob_of_another_uid():
    with Cluster() as cluster:
        launcher = Launcher(cluster)
        uid = launcher.create(trainjob())["metadata"]["uid"]
        status, answer = refusal(lambda: launcher.delete(body={"preconditions": {"uid": "other"}}))
        assert (status, answer["reason"]) == (409, "Conflict") and launcher.get()
        launcher.delete(body={"preconditions": {"uid": uid}})


@pytest.mark.parametrize("owner", ["gone later", "never there"])
def test_a_trainjob_without_a_living_owner_is_collected(owner: str):
    with Cluster() as cluster:
        body = trainjob()
        uid = cluster.launcher_uid if owner == "gone later" else "00000000-0000-0000-0000-000000000000"
        body["metadata"]["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Pod", "name": cluster.launcher_pod, "uid": uid}
        ]
        Launcher(cluster).create(body)
        if owner == "gone later":
            time.sleep(0.05)
            assert cluster.trainjobs
            cluster.delete_launcher_pod()
        cluster.wait_until(lambda: not cluster.trainjobs)


# Faults


@pytest.mark.parametrize(
    ("status", "reason"),
    [(429, "TooManyRequests"), (500, "InternalError"), (503, "ServiceUnavailable"), (504, "Timeout")],
)
def test_a_burst_of_errors_comes_as_often_as_asked(status: int, reason: str):
    with Cluster() as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        cluster.fail(2, status, retry_after=1, verb="get", resource="trainjobs")
        for _ in range(2):
            with pytest.raises(ApiException) as error:
                launcher.get()
            assert (error.value.status, json.loads(error.value.body)["reason"]) == (status, reason)
            assert error.value.headers["Retry-After"] == "1"
            assert launcher.pods() == []
        assert launcher.get()


def test_a_request_may_take_effect_although_its_answer_is_lost():
    with Cluster() as cluster:
        launcher = Launcher(cluster)
        cluster.fail(1, 504, carried_out=True, verb="create")
        assert refusal(lambda: launcher.create(trainjob()))[0] == 504
        assert launcher.get()
        cluster.reset_connections(1, carried_out=True, verb="delete")
        with pytest.raises(urllib3.exceptions.ProtocolError):
            launcher.delete()
        assert refusal(launcher.get)[0] == 404


def test_a_reset_connection_is_reset_and_not_closed():
    with Cluster() as cluster:
        cluster.reset_connections()
        port = int(cluster.url.rsplit(":", 1)[1])
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        # TLS over buffers: an SSLSocket says EOF for a reset.
        tls = ssl.create_default_context(cafile=str(cluster.ca_file)).wrap_bio(
            received, sent, server_hostname="127.0.0.1"
        )
        with socket.create_connection(("127.0.0.1", port)) as plain:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(sent.read())
                    received.write(plain.recv(65536))
            tls.write(f"GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cluster.token}\r\n\r\n".encode())
            plain.sendall(sent.read())
            with pytest.raises(ConnectionResetError):
                while plain.recv(65536):
                    pass
        cluster.wait_until(lambda: cluster.requests[-1].status == 0)


def test_a_server_that_goes_down_refuses_connections_until_it_is_back():
    with Cluster(life=writes("one")) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        followed = launcher.follow()
        assert next(followed) == "one\n"
        cluster.go_down()
        with pytest.raises(urllib3.exceptions.ProtocolError):
            next(followed)
        with pytest.raises(urllib3.exceptions.NewConnectionError, match="refused"):
            Launcher(cluster).get()
        cluster.come_back()
        assert launcher.get() and "".join(launcher.log()) == "one\n"


def test_a_request_may_hang_longer_than_its_client_waits():
    with Cluster() as cluster:
        launcher = Launcher(cluster)
        cluster.hang(0.2, resource="pods")
        with pytest.raises(urllib3.exceptions.TimeoutError):
            launcher.core.list_namespaced_pod("ns", _request_timeout=(0.05, 0.05))
        assert launcher.core.list_namespaced_pod("ns", _request_timeout=(5, 5)).items
