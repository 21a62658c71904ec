"""The test cluster itself, asked by the real client."""

import http.client
import json
import os
import re
import socket
import ssl
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from fakes.kubernetes import ROLE, SEES_RUNTIMES, Cluster, Job, JobGone, rule, run_as_processes, schema, without
from fakes.kubernetes.compact_schema import compact_schema
from fakes.kubernetes.kubelet import expand

TRAINJOBS = ("trainer.kubeflow.org", "v1alpha1", "ns", "trainjobs")
NODE_0 = (
    "jobset.sigs.k8s.io/jobset-name=train,jobset.sigs.k8s.io/replicatedjob-name=node,"
    "batch.kubernetes.io/job-completion-index=0"
)
Body = dict[str, Any]


class Launcher:
    """What a launcher does, with the real client."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = cluster.client()
        # Its own retries would hide what the server does.
        self._client.rest_client.pool_manager.connection_pool_kw["retries"] = False
        self.custom = client.CustomObjectsApi(self._client)
        self.core = client.CoreV1Api(self._client)

    def create(self, body: Body, **options: Any) -> Body:
        return self.custom.create_namespaced_custom_object(*TRAINJOBS, body, **options)

    def get(self, name: str = "train") -> Body:
        return self.custom.get_namespaced_custom_object(*TRAINJOBS, name)

    def delete(self, name: str = "train", **options: Any) -> Body:
        return self.custom.delete_namespaced_custom_object(*TRAINJOBS, name, **options)

    def page(self, path: str, **query: str) -> Any:
        return self._client.call_api(
            path, "GET", query_params=list(query.items()), auth_settings=["BearerToken"], response_type="object"
        )[0]

    def pods(self, selector: str = "jobset.sigs.k8s.io/jobset-name=train") -> list[Any]:
        return self.core.list_namespaced_pod("ns", label_selector=selector).items

    def log(self, **options: Any) -> str:
        return self.core.read_namespaced_pod_log(self.pods(NODE_0)[0].metadata.name, "ns", **options)

    def follow(self, **options: Any) -> Iterator[str]:
        answer = self.core.read_namespaced_pod_log(
            self.pods(NODE_0)[0].metadata.name, "ns", follow=True, _preload_content=False, **options
        )
        yield from (chunk.decode() for chunk in answer.stream(amt=None))


def trainjob(name: str = "train", **trainer: Any) -> Body:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": {"name": "training-hub"}, "trainer": {"numNodes": 1, **trainer}},
    }


def with_pod_settings(generation: str, pod: Body, labels: Body | None = None, **trainer: Any) -> Body:
    """A TrainJob with a pod spec in the field of that generation."""
    body = trainjob(**trainer)
    template = {"metadata": {"labels": labels or {}}, "spec": pod}
    if generation == "2.1":
        body["spec"]["podTemplateOverrides"] = [{"targetJobs": [{"name": "node"}], **template}]
    else:
        jobs = [{"name": "node", "template": {"spec": {"template": template}}}]
        body["spec"]["runtimePatches"] = [
            {"manager": "kfp-osft/launch", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}
        ]
    return body


def refusal(call: Callable[[], object]) -> tuple[int, Body]:
    """HTTP status and Status object of a request that is refused."""
    with pytest.raises(ApiException) as error:
        call()
    return error.value.status, json.loads(error.value.body)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "not within 5 s"
        time.sleep(0.01)


def conditions(body: Body) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in body.get("status", {}).get("conditions", ())}


@pytest.fixture(params=["crd", "compact"])
def any_schema(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with the CRDs' schemas, where they are at hand, and once with our own."""
    if request.param == "compact":
        monkeypatch.setattr(schema, "crd_schema", lambda generation: None)
    elif not schema.CRD_FOLDER.exists():
        pytest.skip("the CRDs are not at hand")


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


# Generations of the Trainer


@pytest.mark.parametrize(
    ("trainer", "known"),
    [("2.1", ["podTemplateOverrides"]), ("2.2", ["runtimePatches"]), ("2.3", ["runtimePatches"]), ("unknown", [])],
)
def test_the_openapi_tells_the_generation(trainer: str, known: list[str], any_schema: None):
    with Cluster(trainer) as cluster:
        launcher = Launcher(cluster)
        url = launcher.page("/openapi/v3")["paths"]["apis/trainer.kubeflow.org/v1alpha1"]["serverRelativeURL"]
        assert re.fullmatch(r"/openapi/v3/apis/trainer\.kubeflow\.org/v1alpha1\?hash=[0-9A-F]{128}", url)
        schemas = launcher.page(url.split("?")[0])["components"]["schemas"]
        found = schemas["org.kubeflow.trainer.v1alpha1.TrainJob"]
        assert found["x-kubernetes-group-version-kind"] == [
            {"group": "trainer.kubeflow.org", "kind": "TrainJob", "version": "v1alpha1"}
        ]
        fields = found["properties"]["spec"]["properties"]
        assert [name for name in ("podTemplateOverrides", "runtimePatches") if name in fields] == known
        assert launcher.page("/apis")["groups"][0]["name"] == "trainer.kubeflow.org"
        listed = launcher.page("/apis/trainer.kubeflow.org/v1alpha1")["resources"]
        assert "trainjobs" in [one["name"] for one in listed]


def test_without_a_trainer_its_paths_are_not_there():
    with Cluster(None) as cluster:
        launcher = Launcher(cluster)
        assert list(launcher.page("/openapi/v3")["paths"]) == ["api/v1"]
        for call in (
            lambda: launcher.create(trainjob()),
            launcher.get,
            lambda: launcher.page("/openapi/v3/apis/trainer.kubeflow.org/v1alpha1"),
            lambda: launcher.page("/apis/trainer.kubeflow.org/v1alpha1"),
        ):
            with pytest.raises(ApiException) as error:
                call()
            # As from a real server: no Status, for nothing serves the path.
            assert (error.value.status, error.value.body) == (404, "404 page not found\n")


@pytest.mark.parametrize(
    ("trainer", "wrong", "path"),
    [
        ("2.1", "2.3", "spec.runtimePatches"),
        ("2.2", "2.1", "spec.podTemplateOverrides"),
        ("2.3", "2.1", "spec.podTemplateOverrides"),
        ("unknown", "2.3", "spec.runtimePatches"),
    ],
)
def test_a_field_that_the_generation_does_not_know_is_an_error_if_strict_and_pruned_if_not(
    trainer: str, wrong: str, path: str, any_schema: None
):
    with Cluster(trainer) as cluster:
        launcher, body = Launcher(cluster), with_pod_settings(wrong, {"nodeSelector": {"a": "b"}})
        status, answer = refusal(lambda: launcher.create(body, field_validation="Strict"))
        assert (status, answer["reason"], answer["message"]) == (
            400,
            "BadRequest",
            'TrainJob in version "v1alpha1" cannot be handled as a TrainJob: strict decoding error: '
            f'unknown field "{path}"',
        )
        assert cluster.trainjobs == []
        created = launcher.create(body)
        assert path.removeprefix("spec.") not in created["spec"] and launcher.get()["spec"] == created["spec"]


@pytest.mark.parametrize("trainer", ["2.1", "2.2", "2.3"])
def test_what_the_generation_knows_is_stored_whole_and_with_defaults(trainer: str, any_schema: None):
    pod = {
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "pvc"}}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                }
            }
        },
        "containers": [{"name": "node", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
    }
    body = with_pod_settings(
        trainer,
        pod,
        {"team": "x"},
        numProcPerNode=2,
        command=["python"],
        resourcesPerNode={"limits": {"nvidia.com/gpu": "2"}, "requests": {"cpu": "8", "memory": "32Gi"}},
        env=[{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}],
    )
    with Cluster(trainer, life=lambda job: job.create_pods()) as cluster:
        launcher = Launcher(cluster)
        stored = launcher.create(body, field_validation="Strict")
        assert stored["spec"]["trainer"] == body["spec"]["trainer"]
        assert stored["spec"]["runtimeRef"] == {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "ClusterTrainingRuntime",
            "name": "training-hub",
        }
        assert stored["spec"]["suspend"] is False
        until(launcher.pods)
        made = launcher.pods(NODE_0 + ",team=x")[0].to_dict()["spec"]
        assert made["node_selector"] == {"gpu": "h200"} and made["affinity"]["node_affinity"]
        assert made["volumes"][0]["persistent_volume_claim"]["claim_name"] == "pvc"
        assert made["containers"][0]["volume_mounts"][0]["mount_path"] == "/data"
        assert made["containers"][0]["env"][0]["name"] == "HF_TOKEN"


@pytest.mark.parametrize(
    ("trainer", "settings", "causes"),
    [
        ("2.3", {"numNodes": "two"}, {"spec.trainer.numNodes": "FieldValueTypeInvalid"}),
        ("2.3", {"numProcPerNode": "auto"}, {"spec.trainer.numProcPerNode": "FieldValueTypeInvalid"}),
        ("2.1", {"numProcPerNode": 1.5}, {"spec.trainer.numProcPerNode": "FieldValueTypeInvalid"}),
        ("2.2", {"command": ["x" * 65537]}, {"spec.trainer.command[0]": "FieldValueTooLong"}),
        ("2.2", {"env": [{"name": f"A{number}"} for number in range(129)]}, {"spec.trainer.env": "FieldValueTooMany"}),
        ("2.1", {"env": [{"value": "x"}]}, {"spec.trainer.env[0].name": "FieldValueRequired"}),
        ("2.1", {"env": [{"name": "A"}, {"name": "A"}]}, {"spec.trainer.env[1]": "FieldValueDuplicate"}),
        (
            "2.3",
            {"resourcesPerNode": {"limits": {"memory": "32 GB"}}, "numNodes": []},
            {
                "spec.trainer.numNodes": "FieldValueTypeInvalid",
                "spec.trainer.resourcesPerNode.limits.memory": "FieldValueInvalid",
            },
        ),
    ],
)
def test_a_body_against_the_schema_is_invalid_with_its_causes(
    trainer: str, settings: Body, causes: dict[str, str], any_schema: None
):
    with Cluster(trainer) as cluster:
        status, answer = refusal(lambda: Launcher(cluster).create(trainjob(**settings)))
        assert (status, answer["reason"]) == (422, "Invalid")
        assert {cause["field"]: cause["reason"] for cause in answer["details"]["causes"]} == causes
        assert answer["message"].startswith('TrainJob.trainer.kubeflow.org "train" is invalid: ')


@pytest.mark.parametrize(
    ("trainer", "settings"),
    [
        ("2.1", {"numProcPerNode": "auto"}),
        ("2.1", {"command": ["x" * 70000]}),
        ("2.3", {"command": ["x" * 70000]}),
        ("2.3", {"resourcesPerNode": {"limits": {"cpu": 2, "memory": "32Gi"}}}),
    ],
)
def test_what_one_generation_refuses_another_takes(trainer: str, settings: Body, any_schema: None):
    with Cluster(trainer) as cluster:
        assert Launcher(cluster).create(trainjob(**settings), field_validation="Strict")


@pytest.mark.parametrize("generation", ["2.1", "2.2", "2.3"])
def test_our_schema_says_what_the_crd_says_of_every_field_it_has(generation: str):
    crd = schema.crd_schema(generation)
    if crd is None:
        pytest.skip("the CRDs are not at hand")

    limits = {"maxItems", "maxLength", "minLength", "pattern", "enum", "required", "default"}

    def compare(ours: Body, theirs: Body, path: str) -> None:
        if ours.get("x-kubernetes-preserve-unknown-fields"):
            theirs = {**theirs, "x-kubernetes-preserve-unknown-fields": True}
        # What a client never sends needs no limits.
        words = set(ours) | (set() if path.startswith("status") else limits)
        for word in words - {"properties", "items", "additionalProperties", "x-kubernetes-validations"}:
            assert ours.get(word) == theirs.get(word), f"{path}: {word}"
        rules = [one["rule"] for one in theirs.get("x-kubernetes-validations", ())]
        assert all(one["rule"] in rules for one in ours.get("x-kubernetes-validations", ())), path
        for name, part in ours.get("properties", {}).items():
            compare(part, theirs["properties"][name], f"{path}.{name}".removeprefix("."))
        for word, step in (("items", "[]"), ("additionalProperties", "{}")):
            if word in ours:
                compare(ours[word], theirs[word], path + step)

    compare(compact_schema(generation), crd, "")


# Webhooks


@pytest.mark.parametrize("trainer", ["2.1", "2.3"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"pod": {"containers": [{"name": "node", "env": [{"name": "A", "value": "1"}]}]}},
            "must not have envs for the dataset-initializer, model-initializer, node containers",
        ),
        (
            {"pod": {"containers": [{"name": "other"}]}},
            "must not have container that doesn't exist in the runtime job node",
        ),
        (
            {"trainer": {"env": [{"name": "PET_NNODES", "value": "2"}]}},
            "must not have reserved envs, invalid envs configured: [PET_NNODES]",
        ),
        (
            {"runtime": {"name": "nowhere"}},
            'spec.RuntimeRef: Invalid value: {"name":"nowhere","apiGroup":"trainer.kubeflow.org",'
            '"kind":"ClusterTrainingRuntime"}: ClusterTrainingRuntime.trainer.kubeflow.org "nowhere" not found: '
            "specified clusterTrainingRuntime must be created before the TrainJob is created",
        ),
        ({"runtime": {"name": "training-hub", "kind": "TrainingRuntime"}}, "specified trainingRuntime must be created"),
        ({"runtime": {"name": "x", "kind": "Other"}}, "unsupported runtime: Other.trainer.kubeflow.org"),
    ],
)
def test_the_webhook_refuses_with_403_what_the_trainer_does_not_take(trainer: str, change: Body, sentence: str):
    body = with_pod_settings(trainer, change.get("pod", {}), **change.get("trainer", {}))
    body["spec"]["runtimeRef"] = change.get("runtime", body["spec"]["runtimeRef"])
    with Cluster(trainer) as cluster:
        status, answer = refusal(lambda: Launcher(cluster).create(body, field_validation="Strict"))
        assert status == 403
        assert answer["message"].startswith(
            'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: '
        )
        assert sentence in answer["message"]


@pytest.mark.parametrize(("name", "said"), [("a" * 64, "no more than 63"), ("1train", "RFC 1035")])
def test_a_name_that_is_no_dns_label_is_invalid(name: str, said: str, any_schema: None):
    with Cluster() as cluster:
        status, answer = refusal(lambda: Launcher(cluster).create(trainjob(name)))
        assert status == 422 and said in answer["message"]


def test_a_name_over_48_characters_is_taken_and_then_gets_no_pods():
    with Cluster(life=Job.start) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob("a" * 49))
        events = launcher.core.list_namespaced_event("ns", field_selector="involvedObject.name=" + "a" * 49).items
        assert [event.reason for event in events] == ["TrainJobResourcesCreationFailed"]
        assert cluster.pods == []


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


def owned_secret(owner: Body, name: str = "train-env") -> Body:
    return {
        "metadata": {
            "name": name,
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": "TrainJob",
                    "name": "train",
                    "uid": owner["metadata"]["uid"],
                }
            ],
        },
        "stringData": {"token": "geheim"},
    }


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


# Lives


def test_kueue_suspends_and_resumes_and_jobs_status_counts_jobs():
    seen: list[Body] = []

    def life(job: Job) -> None:
        job.suspend()
        job.launcher_saw()
        job.resume()
        job.create_pods()
        job.pod(0).start()
        job.launcher_saw()
        job.pod(1).start()
        job.launcher_saw()
        job.complete()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob(numNodes=2))
        until(lambda: (seen.append(launcher.get()), "Complete" in conditions(seen[-1]))[1])
    told = []
    for body in seen:
        counts = body["status"]["jobsStatus"][0]
        told.append(
            (
                conditions(body).get("Suspended"),
                counts["suspended"],
                counts["active"],
                counts["ready"],
                counts["succeeded"],
            )
        )
    order = list(dict.fromkeys(told))
    assert order[-4:] == [
        (("True", "Suspended"), 1, 0, 0, 0),
        (("False", "Resumed"), 0, 1, 0, 0),
        (("False", "Resumed"), 0, 1, 1, 0),
        (("False", "Resumed"), 0, 0, 0, 1),
    ]
    assert conditions(seen[-1])["Complete"] == ("True", "AllJobsCompleted")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("ContainerCreating", "ContainerCreating"),
        ("ImagePullBackOff", "trying and failing to pull image"),
        ("ErrImagePull", "image can't be pulled"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
    ],
)
def test_a_pod_that_waits_has_no_log_yet(reason: str, said: str):
    def life(job: Job) -> None:
        job.create_pods()
        job.pod(0).waiting(reason)
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(
            lambda: [
                pod
                for pod in launcher.pods()
                if pod.status.container_statuses and pod.status.container_statuses[0].state.waiting.reason == reason
            ]
        )
        status, answer = refusal(launcher.log)
        name = launcher.pods()[0].metadata.name
        assert (status, answer["message"]) == (400, f'container "node" in pod "{name}" is waiting to start: {said}')


def test_an_unschedulable_pod_says_so_in_its_condition_and_an_event_and_its_log_is_empty():
    def life(job: Job) -> None:
        job.create_pods()
        job.pod(0).unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
        job.event("Warning", "FailedCreate", "quota", on="Job")
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: len(cluster.pods) == 1 and cluster.pods[0]["status"]["conditions"])
        condition = launcher.pods(NODE_0)[0].status.conditions[0]
        assert (condition.type, condition.status, condition.reason) == ("PodScheduled", "False", "Unschedulable")
        pod = launcher.pods()[0].metadata
        selector = f"involvedObject.kind=Pod,involvedObject.name={pod.name},involvedObject.uid={pod.uid}"
        event = launcher.core.list_namespaced_event("ns", field_selector=selector).items[0]
        assert (event.reason, event.message) == ("FailedScheduling", condition.message)
        assert event.last_timestamp is None and event.event_time
        assert launcher.log() == "" and list(launcher.follow()) == []
        until(lambda: launcher.core.list_namespaced_event("ns", field_selector="reason=FailedCreate").items)
        assert (
            refusal(lambda: launcher.core.list_namespaced_event("ns", field_selector="nothing=1"))[1]["message"]
            == "field label not supported: nothing"
        )


def test_a_container_that_restarts_has_two_logs_and_keeps_its_last_state():
    def life(job: Job) -> None:
        job.create_pods()
        pod = job.pod(0)
        pod.start()
        pod.log("first")
        job.launcher_saw("pods", subresource="log")
        pod.terminate(137, "OOMKilled")
        pod.restart()
        pod.log("second")
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs == ["first\n"])
        status, answer = refusal(lambda: launcher.log(previous=True))
        name = launcher.pods()[0].metadata.name
        assert (status, answer["message"]) == (400, f'previous terminated container "node" in pod "{name}" not found')
        until(lambda: cluster.jobs[0].pod(0).logs == ["first\n", "second\n"])
        assert launcher.log() == "second\n" and launcher.log(previous=True) == "first\n"
        container = launcher.pods()[0].status.container_statuses[0]
        ended = container.last_state.terminated
        assert (container.restart_count, ended.reason, ended.exit_code) == (1, "OOMKilled", 137)
        assert container.state.running


@pytest.mark.parametrize(
    ("happening", "expected"),
    [
        (lambda pod: pod.evict("The node was low on resource: memory."), ("Failed", "Evicted", False)),
        (lambda pod: pod.lose_node(), ("Running", "NodeLost", True)),
    ],
)
def test_evicted_and_lost_pods_say_why_and_have_no_log(happening, expected):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("step 1")
        happening(job.pod(0))
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: launcher.pods() and launcher.pods()[0].status.reason)
        pod = launcher.pods()[0]
        assert (pod.status.phase, pod.status.reason, bool(pod.metadata.deletion_timestamp)) == expected
        assert _status_of(launcher.log) in (200, 500)


def _status_of(request) -> int:
    try:
        assert "step 1" not in request()
    except ApiException as error:
        return error.status
    return 200


def test_a_queued_trainjob_is_suspended_from_its_first_moment():
    with Cluster(queued=True) as cluster:
        launcher = Launcher(cluster)
        assert launcher.create(trainjob())["spec"]["suspend"] is True
        assert conditions(launcher.get()) == {"Suspended": ("True", "Suspended")}
        cluster.jobs[0].resume()
        assert conditions(launcher.get()) == {"Suspended": ("False", "Resumed")}


def test_a_job_that_is_suspended_while_it_runs_loses_its_pods():
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.suspend()
        job.wait_until(lambda: not job.cluster.pods)
        job.resume()
        job.create_pods()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(
            lambda: len({pod.metadata.name for pod in launcher.pods()} | {pod.name for pod in cluster.jobs[0].pods})
            == 2
        )
        assert [pod.metadata.name for pod in launcher.pods()] == [cluster.jobs[0].pod(0).name]


def test_a_lost_pod_stays_until_the_trainjob_goes():
    def life(job: Job) -> None:
        job.start()
        job.pod(0).lose_node()
        job.create_pod(0).start()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: sorted(bool(pod.metadata.deletion_timestamp) for pod in launcher.pods()) == [False, True])
        launcher.delete(propagation_policy="Foreground")
        cluster.wait_until(lambda: not cluster.trainjobs and not cluster.pods)


def test_a_failed_trainjob_loses_its_pods_and_one_that_somebody_deletes_is_gone():
    def fails(job: Job) -> None:
        job.start()
        job.pod(0).terminate(1)
        job.fail()

    with Cluster(life=[fails, lambda job: (job.start(), job.delete_by_somebody())]) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: "Failed" in conditions(launcher.get()))
        assert conditions(launcher.get())["Failed"] == ("True", "FailedJobs") and launcher.pods() == []
        launcher.create(trainjob("second"))
        until(lambda: [one["metadata"]["name"] for one in cluster.trainjobs] == ["train"])


def test_a_life_that_goes_wrong_fails_the_test_and_ends_the_trainjob():
    def life(job: Job) -> None:
        job.create_pods()
        raise ZeroDivisionError("in the life")

    with pytest.raises(ZeroDivisionError, match="in the life"), Cluster(life=life) as cluster:
        Launcher(cluster).create(trainjob())
        cluster.wait_until(lambda: not cluster.trainjobs)


def test_a_life_waits_for_the_launcher_only_so_long():
    with (
        pytest.raises(TimeoutError, match="1 requests for pods"),
        Cluster(life=lambda job: job.launcher_saw("pods"), patience=0.1) as cluster,
    ):
        Launcher(cluster).create(trainjob())
        until(lambda: not cluster.trainjobs)


def test_a_life_ends_when_its_trainjob_is_deleted():
    ended = threading.Event()

    def life(job: Job) -> None:
        try:
            job.sleep(60)
        except JobGone:
            ended.set()
            raise

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        launcher.delete()
        assert ended.wait(5)


def test_a_pod_that_mounts_a_volume_it_does_not_have_fails_the_test():
    body = with_pod_settings(
        "2.3", {"containers": [{"name": "node", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}
    )
    with (
        pytest.raises(ValueError, match=r'volumeMounts\[0\].name: Not found: "data"'),
        Cluster(life=Job.start) as cluster,
    ):
        Launcher(cluster).create(body)
        cluster.wait_until(lambda: not cluster.trainjobs)


# Logs


def writes(*lines: str) -> Callable[[Job], None]:
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*lines)
        job.wait_for_deletion()

    return life


def test_log_options_choose_as_the_kubelet_does():
    with Cluster(life=writes("one", "two", "three")) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs == ["one\ntwo\nthree\n"])
        assert launcher.log(container="node") == "one\ntwo\nthree\n"
        assert launcher.log(tail_lines=2) == "two\nthree\n" and launcher.log(tail_lines=0) == ""
        assert launcher.log(limit_bytes=5) == "one\nt"
        assert launcher.log(since_seconds=60) == "one\ntwo\nthree\n"
        stamps = [line.split(" ")[0] for line in launcher.log(timestamps=True).splitlines()]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)
        assert stamps == sorted(set(stamps))
        assert "not valid for pod" in refusal(lambda: launcher.log(container="other"))[1]["message"]
        assert refusal(lambda: launcher.log(since_seconds=0))[0] == 422
        name = launcher.pods()[0].metadata.name
        assert refusal(lambda: launcher.core.read_namespaced_pod_log(name + "x", "ns"))[0] == 404


def test_since_leaves_out_what_is_older():
    with Cluster(life=writes("old")) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        time.sleep(1.05)
        cluster.jobs[0].pod(0).log("new")
        assert launcher.log(since_seconds=1) == "new\n"
        stamp = launcher.log(timestamps=True, tail_lines=1).split(" ")[0]
        # Read in whole seconds, as the API server passes it on; the client has no argument for it.
        path = f"/api/v1/namespaces/ns/pods/{launcher.pods()[0].metadata.name}/log"
        assert launcher.page(path, sinceTime=stamp) == "new\n"


def test_a_followed_log_comes_as_it_is_written_and_ends_with_the_container():
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("one")
        job.wait_for_log_reader()
        job.pod(0).log_part("10%\r20")
        job.pod(0).log_part("%\ntwo\n")
        job.complete()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        assert "".join(launcher.follow()) == "one\n10%\r20%\ntwo\n"
        assert "".join(launcher.follow(tail_lines=1)) == "two\n"
        assert cluster.requests[-1].matches(resource="pods", subresource="log", status=200)


def test_a_log_that_is_cut_in_the_middle_of_a_line_has_the_whole_line_at_the_next_read():
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("one")
        job.wait_for_log_reader()
        job.pod(0).log_part("tw")
        job.pod(0).cut_log()
        job.pod(0).log_part("o\n")
        job.wait_for_log_reader()
        job.pod(0).terminate(0)

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        read = []
        with pytest.raises(urllib3.exceptions.ProtocolError):
            for text in launcher.follow():
                read.append(text)
        assert "".join(read) == "one\ntw"
        assert "".join(launcher.follow()) == "one\ntwo\n"


def test_a_reader_that_goes_away_is_noticed():
    with Cluster(life=writes("one")) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        answer = launcher.core.read_namespaced_pod_log(
            launcher.pods()[0].metadata.name, "ns", follow=True, _preload_content=False
        )
        cluster.jobs[0].wait_for_log_reader()
        answer.close()
        cluster.wait_until(lambda: cluster.jobs[0].pod(0).log_readers == 0)


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


# Processes


def python(code: str, *arguments: str) -> list[str]:
    return ["python", "-c", textwrap.dedent(code), *arguments]


def ran(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Creates nothing; waits for the end of the first TrainJob and returns its conditions."""
    cluster.wait_until(lambda: {"Complete", "Failed"} & set(conditions(cluster.trainjobs[0])))
    return conditions(cluster.trainjobs[0])


def lives(pid: int) -> bool:
    """False for a zombie as well: where nobody collects orphans they stay."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)-$(A)", "1-1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(B)", "$(B)"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("${A}", "${A}"),
    ],
)
def test_references_are_expanded_as_the_kubelet_does(text: str, expanded: str):
    assert expand(text, {"A": "1"}) == expanded


def test_two_nodes_find_each_other_by_what_the_server_sets():
    code = """
        import os, socket, time
        rank = int(os.environ["PET_NODE_RANK"])
        address = (os.environ["PET_MASTER_ADDR"], int(os.environ["PET_MASTER_PORT"]))
        if rank == 0:
            peer = socket.create_server(address).accept()[0]
            print("node 0 heard", peer.recv(100).decode())
        else:
            while True:
                try:
                    peer = socket.create_connection(address)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
            peer.sendall(f"node {rank} of {os.environ['PET_NNODES']}, {os.environ['PET_NPROC_PER_NODE']} each".encode())
    """
    with Cluster(life=run_as_processes()) as cluster:
        Launcher(cluster).create(trainjob(numNodes=2, numProcPerNode=3, command=python(code)))
        assert ran(cluster) == {"Complete": ("True", "AllJobsCompleted")}
        assert cluster.jobs[0].pod(0).logs == ["node 0 heard node 1 of 2, 3 each\n"]


def test_the_container_has_what_the_manifest_says_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURS", "1")
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    env = [
        {"name": "A", "value": "one"},
        {"name": "B", "value": "$(A) two"},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
        {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "d"}}},
        {"name": "E", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": True}}},
        {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    with Cluster(life=run_as_processes(image_environment={"IMAGE": "1"})) as cluster:
        cluster.add_secret("hf", {"token": "geheim"})
        cluster.add_config_map("settings", {"d": "four"})
        Launcher(cluster).create(trainjob(command=python(code), args=["$(B)", "$$(B)", "$(OURS)"], env=env))
        ran(cluster)
        arguments, seen = json.loads(cluster.jobs[0].pod(0).logs[0])
    assert arguments == ["one two", "$(B)", "$(OURS)"]
    assert {name: seen[name] for name in "ABCDF"} == {"A": "one", "B": "one two", "C": "geheim", "D": "four", "F": "ns"}
    assert seen["IMAGE"] == "1" and not {"E", "OURS"} & set(seen) and seen["HOME"] != os.environ.get("HOME")


def test_a_pod_waits_for_the_secret_that_the_launcher_creates_after_the_trainjob():
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "train-env", "key": "token"}}}]
    with Cluster(life=run_as_processes()) as cluster:
        launcher = Launcher(cluster)
        created = launcher.create(trainjob(command=python("import os; print(os.environ['TOKEN'])"), env=env))
        until(lambda: launcher.pods() and launcher.pods()[0].status.container_statuses)
        waiting = launcher.pods()[0].status.container_statuses[0].state.waiting
        assert (waiting.reason, waiting.message) == ("CreateContainerConfigError", 'secret "train-env" not found')
        launcher.core.create_namespaced_secret("ns", owned_secret(created))
        assert ran(cluster)["Complete"] and cluster.jobs[0].pod(0).logs == ["geheim\n"]


def test_output_of_the_process_is_followed_live():
    code = "print('one', flush=True); input_ = open({!r}); print(input_.read())"
    fifo = Path(os.environ.get("TMPDIR", "/tmp")) / f"cluster-fifo-{os.getpid()}"
    os.mkfifo(fifo)
    try:
        with Cluster(life=run_as_processes()) as cluster:
            launcher = Launcher(cluster)
            launcher.create(trainjob(command=python(code.format(str(fifo)))))
            until(lambda: launcher.pods() and launcher.pods()[0].status.phase == "Running")
            followed = launcher.follow()
            assert next(followed) == "one\n"
            fifo.write_text("two")
            assert "".join(followed) == "two\n"
    finally:
        fifo.unlink()


@pytest.mark.parametrize(("backoff_limit", "logs"), [(0, 1), (1, 2)])
def test_a_process_that_fails_is_started_again_as_often_as_the_backoff_limit_says(backoff_limit: int, logs: int):
    with Cluster(life=run_as_processes(backoff_limit=backoff_limit, linger=0.1)) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob(command=python("print('no'); raise SystemExit(3)")))
        until(
            lambda: launcher.pods()
            and (launcher.pods()[0].status.container_statuses or [None])[0]
            and launcher.pods()[0].status.container_statuses[0].state.terminated
            and launcher.pods()[0].status.container_statuses[0].restart_count == backoff_limit
        )
        assert launcher.pods()[0].status.container_statuses[0].state.terminated.exit_code == 3
        assert ran(cluster) == {"Failed": ("True", "FailedJobs")}
        assert cluster.jobs[0].pod(0).logs == ["no\n"] * logs and launcher.pods() == []


@pytest.mark.parametrize("mounted", [True, False])
def test_a_claim_must_be_mounted_where_its_folder_is(tmp_path: Path, mounted: bool):
    (tmp_path / "rows.jsonl").write_text("{}")
    pod = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "pvc"}}],
        "containers": [
            {
                "name": "node",
                "volumeMounts": [{"name": "data", "mountPath": str(tmp_path if mounted else tmp_path / "other")}],
            }
        ],
    }
    body = with_pod_settings(
        "2.3", pod, command=python("import sys; print(open(sys.argv[1]).read())", str(tmp_path / "rows.jsonl"))
    )
    cluster = Cluster(life=run_as_processes(claims={"pvc": tmp_path}))
    if mounted:
        with cluster:
            Launcher(cluster).create(body, field_validation="Strict")
            assert ran(cluster)["Complete"] and cluster.jobs[0].pod(0).logs == ["{}\n"]
    else:
        with pytest.raises(AssertionError, match="not to be seen in the container"), cluster:
            Launcher(cluster).create(body, field_validation="Strict")
            cluster.wait_until(lambda: not cluster.trainjobs)


def test_a_claim_that_does_not_exist_leaves_the_pods_unschedulable():
    body = with_pod_settings("2.3", {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "none"}}]})
    with Cluster(life=run_as_processes()) as cluster:
        launcher = Launcher(cluster)
        launcher.create(body)
        until(lambda: launcher.pods() and launcher.pods()[0].status.conditions)
        assert 'persistentvolumeclaim "none" not found' in launcher.pods()[0].status.conditions[0].message


def test_deleting_the_trainjob_ends_its_processes_with_all_they_started():
    code = """
        import signal, subprocess, sys, os
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(os.getpid(), child.pid, flush=True)
        child.wait()
    """
    with Cluster(life=run_as_processes()) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob(command=python(code)))
        until(lambda: cluster.jobs[0].pods and any(cluster.jobs[0].pod(0).logs))
        processes = [int(pid) for pid in cluster.jobs[0].pod(0).logs[0].split()]
        assert all(map(lives, processes))
        launcher.delete(propagation_policy="Foreground")
    assert not any(map(lives, processes))
