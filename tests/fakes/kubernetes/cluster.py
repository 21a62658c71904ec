"""The cluster as tests use it."""

import base64
import contextlib
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fakes.kubernetes.faults import Fault, Faults
from fakes.kubernetes.http_server import HttpServer, certificate_authority
from fakes.kubernetes.lives import LONGEST_NAME, Job, JobGone
from fakes.kubernetes.pods import CONTAINER, Pod
from fakes.kubernetes.rbac import ROLE, Rule
from fakes.kubernetes.recorded import Request
from fakes.kubernetes.resources import (
    CLAIMS,
    CLUSTER_TRAINING_RUNTIMES,
    CONFIG_MAPS,
    EVENTS,
    PODS,
    SECRETS,
    TRAINING_RUNTIMES,
    TRAINJOBS,
    WORKFLOWS,
    Resource,
)
from fakes.kubernetes.status import ApiError
from fakes.kubernetes.store import Body, Store, now_exact
from fakes.kubernetes.trainer import pod_template, runtime

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Life = Callable[[Job], None]


class Cluster:
    """A Kubernetes API server with the Kubeflow Trainer, on 127.0.0.1, while the context is entered.

        with Cluster(trainer="2.3", life=straight_success) as cluster:
            launch(cluster.url, cluster.token, cluster.ca_file)
            assert [request.verb for request in cluster.asked(resource="trainjobs")] == ["create", "get"]

    Leaving it raises what went wrong in a life.

    Args:
        trainer: 2.1, 2.2, 2.3; None: not installed; unknown: knows no field for pod settings.
        life: what happens to each TrainJob that is created, or a list of lives, one for each in turn; without one
            nothing happens to it.
        rules: what the token may do, as the rules of a Role; rbac.ROLE unless given.
        queued: Kueue's webhook suspends each new TrainJob, until its life resumes it.
        namespace: of the token's service account.
        cluster_runtimes, runtimes: names of ClusterTrainingRuntimes and of the namespace's TrainingRuntimes.
        termination_seconds: how long pods take to end once they are deleted, and so a TrainJob that is deleted in
            the foreground.
        patience: seconds that a life waits for the launcher before it fails.

    Attributes:
        url: https://127.0.0.1:PORT
        token: the valid bearer token; see rotate_token.
        service_account: folder with token, ca.crt and namespace, as Kubernetes mounts it into a pod.
        ca_file, token_file, namespace_file: the files in there.
        launcher_pod, launcher_uid: name and UID of the launcher's own pod.
        workflow, workflow_uid: of the run's Workflow, which owns that pod.
        pods_made_anew: by the Trainer, of TrainJobs that were deleted in the foreground.
        foreground_remakes: how often it does so.
        requests: all requests so far, see Request.
        jobs: the Job of each TrainJob so far.
        errors: what lives raised.
    """

    def __init__(
        self,
        trainer: str | None = "2.3",
        life: Life | Sequence[Life] | None = None,
        *,
        rules: Sequence[Rule] = ROLE,
        queued: bool = False,
        namespace: str = "ns",
        cluster_runtimes: Sequence[str] = ("training-hub", "torch-distributed"),
        runtimes: Sequence[str] = (),
        termination_seconds: float = 0.1,
        patience: float = 10.0,
    ) -> None:
        self.trainer = trainer
        self.rules = list(rules)
        self.queued = queued
        self.namespace = namespace
        self.user = f"system:serviceaccount:{namespace}:launcher"
        self.patience = patience
        self.store = Store(termination_seconds)
        self.faults = Faults()
        self.requests: list[Request] = []
        self.jobs: list[Job] = []
        self.errors: list[BaseException] = []
        self.started, self.dirty = 0.0, 0.0
        self.pods_made_anew, self.foreground_remakes = 0, 3
        self._life = life
        self._pods: dict[str, Pod] = {}
        self._threads: list[threading.Thread] = []
        self.store.removed.append(self._was_removed)
        for name in cluster_runtimes:
            self.store.create(CLUSTER_TRAINING_RUNTIMES, "", runtime(name))
        for name in runtimes:
            self.store.create(TRAINING_RUNTIMES, namespace, runtime(name))
        self.workflow = "osft-pipeline"
        self.workflow_uid: str = self.store.create(WORKFLOWS, namespace, {"metadata": {"name": self.workflow}})[
            "metadata"
        ]["uid"]
        self.launcher_pod = "osft-pipeline-launcher"
        self.launcher_uid: str = self.store.create(
            PODS,
            namespace,
            {
                "metadata": {
                    "name": self.launcher_pod,
                    "ownerReferences": [
                        {
                            "apiVersion": WORKFLOWS.api_version,
                            "kind": "Workflow",
                            "name": self.workflow,
                            "uid": self.workflow_uid,
                            "controller": True,
                            "blockOwnerDeletion": True,
                        }
                    ],
                },
                "status": {"phase": "Running"},
                "spec": {"containers": [{"name": "main", "image": "launcher"}]},
            },
        )["metadata"]["uid"]

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="cluster-")
        self.service_account = Path(self._folder.name)
        self.ca_file = self.service_account / "ca.crt"
        certificate_authority().cert_pem.write_to_path(self.ca_file)
        self.token_file = self.service_account / "token"
        self.namespace_file = self.service_account / "namespace"
        self.namespace_file.write_text(self.namespace)
        self.rotate_token()
        self._server = HttpServer(self)
        self._server.__enter__()
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self.store.changed:
            self.store.closed = True
            self.store.changed.notify_all()
        self._server.__exit__()
        for thread in self._threads:
            thread.join(self.patience)
        self._folder.cleanup()
        if error is not None:
            for failed in self.errors:
                error.add_note(f"In the cluster: {type(failed).__name__}: {failed}")
        elif self.errors:
            raise self.errors[0]

    def rotate_token(self) -> str:
        """Makes a new token, writes it to token_file, and returns it; the old one becomes invalid."""
        self.token = secrets.token_urlsafe(24)
        self.token_file.write_text(self.token)
        return self.token

    def client(self) -> "ApiClient":
        """The real client, with this cluster's address, CA and current token."""
        from kubernetes import client

        configuration = client.Configuration(host=self.url)
        configuration.ssl_ca_cert = str(self.ca_file)
        configuration.api_key = {"authorization": f"Bearer {self.token}"}
        return client.ApiClient(configuration)

    # Faults. `wanted` are attributes of Request: verb="get", resource="trainjobs", subresource="log".

    def fail(
        self,
        times: int = 1,
        status: int = 503,
        *,
        retry_after: int | None = None,
        carried_out: bool = False,
        message: str = "",
        page: bool = False,
        **wanted: Any,
    ) -> None:
        """Responds to the next `times` matching requests with 408, 409, 429, 500, 503 or 504, or another code.

        retry_after: seconds, for the header. carried_out: the request takes effect all the same. message: of the
        Status, in the place of the usual one. page: a proxy's page, and not a Status.
        """
        self.faults.add(Fault(times, wanted, status, retry_after, carried_out, message=message, page=page))

    def reset_connections(self, times: int = 1, *, carried_out: bool = False, **wanted: Any) -> None:
        """Resets the connections (TCP RST) of the next `times` matching requests instead of responding."""
        self.faults.add(Fault(times, wanted, 0, carried_out=carried_out))

    def hang(self, seconds: float, times: int = 1, **wanted: Any) -> None:
        """Delays the responses to the next `times` matching requests by that long."""
        self.faults.add(Fault(times, wanted, seconds=seconds))

    def go_down(self) -> None:
        """Stops the API server: its connections end, and new ones are refused. Lives continue."""
        self._server.__exit__()

    def come_back(self, dirty: float = 0) -> None:
        """After go_down, at the same address.

        dirty: seconds for which it answers before it is ready: 403 for all, then 404 pages for the Trainer's API.
        """
        self.started, self.dirty = time.monotonic(), dirty
        self._server = HttpServer(self, self._server.server_port)
        self._server.__enter__()

    # What exists in the cluster.

    def add_secret(self, name: str, values: dict[str, str]) -> None:
        """Creates a Secret as somebody else."""
        self.store.create(
            SECRETS,
            self.namespace,
            {
                "type": "Opaque",
                "metadata": {"name": name},
                "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
            },
        )

    def add_config_map(self, name: str, values: dict[str, str]) -> None:
        self.store.create(CONFIG_MAPS, self.namespace, {"metadata": {"name": name}, "data": dict(values)})

    def add_claim(self, name: str, access_modes: Sequence[str]) -> None:
        """Creates a PersistentVolumeClaim."""
        self.store.create(
            CLAIMS, self.namespace, {"metadata": {"name": name}, "spec": {"accessModes": list(access_modes)}}
        )

    @property
    def secrets(self) -> dict[str, dict[str, str]]:
        """The existing Secrets: name to key to value, decoded."""
        return {
            body["metadata"]["name"]: {
                key: base64.b64decode(value).decode() for key, value in body.get("data", {}).items()
            }
            for body in self.store.list(SECRETS, self.namespace)
        }

    @property
    def trainjobs(self) -> list[Body]:
        """The existing TrainJobs, as stored."""
        return self.store.list(TRAINJOBS, self.namespace)

    @property
    def pods(self) -> list[Body]:
        """The existing pods of TrainJobs."""
        return self.store.list(PODS, self.namespace, lambda body: body["metadata"]["name"] != self.launcher_pod)

    def delete_launcher_pod(self) -> None:
        """The first step of a retry by KFP's API: deletes the launcher's pod, and what it owns."""
        self.store.delete(PODS, self.namespace, self.launcher_pod)

    def delete_run(self) -> None:
        """Deletes the run in KFP: its Workflow, and what that owns."""
        self.store.delete(WORKFLOWS, self.namespace, self.workflow)

    # Recorded requests.

    def asked(self, **wanted: Any) -> list[Request]:
        """The answered requests that match: asked(verb="list", resource="pods")."""
        with self.store.changed:
            return [request for request in self.requests if request.status is not None and request.matches(**wanted)]

    def wait_until(self, predicate: Callable[[], object], what: str = "what a test waits for") -> None:
        """For the test's own thread. Raises TimeoutError after `patience` seconds."""
        with self.store.changed:
            if not self.store.changed.wait_for(predicate, self.patience):
                raise TimeoutError(
                    f"{what}: not within {self.patience} s. Requests:\n" + "\n".join(map(str, self.requests[-20:]))
                )

    def wait_for_request(self, times: int = 1, **wanted: Any) -> Request:
        """Waits in the test's thread until that many answered requests match; returns the last of them."""
        self.wait_until(lambda: len(self.asked(**wanted)) >= times, f"{times} requests {wanted}")
        return self.asked(**wanted)[times - 1]

    # Used by the server and the lives.

    def record(self, request: Request) -> None:
        with self.store.changed:
            self.requests.append(request)
            self.store.changed.notify_all()

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self.store.changed:
            self.store.changed.wait_for(lambda: self.store.closed or time.monotonic() >= end, seconds)

    def pod(self, name: str) -> Pod | None:
        """None for a pod that belongs to no TrainJob."""
        return self._pods.get(name)

    def know_pod(self, pod: Pod) -> None:
        self._pods[pod.name] = pod

    def pod_template(self, trainjob: Body) -> tuple[Body, dict[str, str], dict[str, str]]:
        """Spec, labels and annotations of a TrainJob's pods."""
        reference = trainjob["spec"]["runtimeRef"]
        resource, namespace = {
            "ClusterTrainingRuntime": (CLUSTER_TRAINING_RUNTIMES, ""),
            "TrainingRuntime": (TRAINING_RUNTIMES, self.namespace),
        }[reference["kind"]]
        return pod_template(self.store.get(resource, namespace, reference["name"]), trainjob)

    def make_anew(self, trainjob: Body) -> None:
        """Trainer ignores a deletionTimestamp: the JobSet that the garbage collector removes is created again."""
        job = next(job for job in self.jobs if job.uid == trainjob["metadata"]["uid"])
        for number in range(self.foreground_remakes):
            timer = threading.Timer(0.03 * (number + 1), job.remake_pods)
            timer.daemon = True
            timer.start()

    def start_life(self, trainjob: Body) -> None:
        """Called with the store held, so that the TrainJob and the Trainer's changes to it appear together."""
        if len(trainjob["metadata"]["name"]) > LONGEST_NAME:
            self._refuse_pods(trainjob)
            return
        job = Job(self, trainjob, len(self.jobs))
        self.jobs.append(job)
        thread = threading.Thread(target=self._live, args=(job,), daemon=True, name=f"life of {job.name}")
        self._threads.append(thread)
        thread.start()

    def _live(self, job: Job) -> None:
        try:
            if callable(self._life):
                self._life(job)
            elif self._life is not None:
                if job.number >= len(self._life):
                    raise AssertionError(
                        f"TrainJob {job.name} is number {job.number}; there are lives for {len(self._life)}"
                    )
                self._life[job.number](job)
        except JobGone:
            pass
        except BaseException as error:
            self.errors.append(error)
            # So that a launcher that follows it ends.
            with contextlib.suppress(ApiError):
                job.delete_by_somebody()

    def _refuse_pods(self, trainjob: Body) -> None:
        """JobSet's webhook denies a name whose pods' names would be too long; the TrainJob itself is kept."""
        metadata = trainjob["metadata"]
        message = (
            'TrainJob resources reconciliation failed: admission webhook "vjobset.kb.io" denied the request: '
            f"the length of the pod names created for the replicatedJob {CONTAINER} is too long (must be no "
            "more than 63 characters)"
        )
        self.store.create(
            EVENTS,
            self.namespace,
            {
                "metadata": {"name": f"{metadata['name']}.{time.time_ns():x}"},
                "involvedObject": {
                    "kind": "TrainJob",
                    "namespace": self.namespace,
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "apiVersion": TRAINJOBS.api_version,
                },
                "type": "Warning",
                "reason": "TrainJobResourcesCreationFailed",
                "message": message,
                "eventTime": now_exact(),
                "firstTimestamp": None,
                "lastTimestamp": None,
                "action": "Reconciling",
                "source": {},
                "reportingComponent": "trainer-controller",
                "reportingInstance": "",
            },
        )

    def _was_removed(self, resource: Resource, body: Body) -> None:
        if resource == PODS and body["metadata"]["name"] in self._pods:
            self._pods[body["metadata"]["name"]].ended()
