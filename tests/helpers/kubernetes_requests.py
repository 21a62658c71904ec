"""What the tests of the test cluster share: a launcher that asks with the real client, and TrainJobs to create."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from fakes.kubernetes import Cluster, Job

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


def writes(*lines: str) -> Callable[[Job], None]:
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*lines)
        job.wait_for_deletion()

    return life
