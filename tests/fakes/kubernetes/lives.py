"""A TrainJob's life: what the cluster does with it, scripted by a test.

A life is a function that takes the Job and runs in a thread of its own from the moment the TrainJob is created:

    def out_of_memory(job: Job) -> None:
        job.create_pods()
        job.pod(0).start()
        job.pod(0).log("loading the model")
        job.wait_for_log_reader()
        job.pod(0).terminate(137, "OOMKilled")
        job.launcher_saw("pods")
        job.fail()

A life that waits for what the launcher does is deterministic; one that sleeps is not. Once the TrainJob is deleted
each operation raises JobGone, which ends the life quietly. Whatever else a life raises fails the test when the
cluster is left.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fakes.kubernetes.kubelet import unknown_volumes
from fakes.kubernetes.pods import CONTAINER, Pod
from fakes.kubernetes.recorded import Request
from fakes.kubernetes.resources import EVENTS, JOBS, JOBSETS, PODS, TRAINJOBS, WORKLOADS
from fakes.kubernetes.status import ApiError
from fakes.kubernetes.store import Body, now, now_exact

if TYPE_CHECKING:
    from fakes.kubernetes.cluster import Cluster

#: The longest name whose pods (<name>-node-0-<index>-xxxxx) fit into 63 characters.
LONGEST_NAME = 48

#: Status of requests after which a launcher knows no more than before.
_TELLS_NOTHING = (None, 0, 401, 429, 500, 503, 504)


class JobGone(Exception):
    """The TrainJob is deleted or being deleted, or the cluster is closed: its life is over."""


class Job:
    """The cluster's side of one TrainJob.

    Attributes:
        name: of the TrainJob.
        namespace: of all there is.
        number: 0 for the first TrainJob of this cluster, 1 for the next.
        cluster: the Cluster.
        pods: all its pods so far, oldest first.
    """

    def __init__(self, cluster: "Cluster", trainjob: Body, number: int) -> None:
        self.cluster = cluster
        self.name: str = trainjob["metadata"]["name"]
        self.namespace: str = trainjob["metadata"]["namespace"]
        self.uid: str = trainjob["metadata"]["uid"]
        self.number = number
        self.pods: list[Pod] = []
        self.deleted = False
        self._store = cluster.store
        with self._store.changed:
            self._create_children()
            if self._live()["spec"]["suspend"]:
                self.suspend()

    # Pods.

    def create_pods(self, count: int | None = None) -> None:
        """Creates a pending pod for each node: spec.trainer.numNodes of them unless `count` says otherwise."""
        self.check_alive()
        for index in range(self.nodes if count is None else count):
            self.create_pod(index)

    def create_pod(self, index: int) -> Pod:
        """Creates the pod of a node; for an index that had one before, its replacement."""
        with self._store.changed:
            self.check_alive()
            spec, labels, annotations = self.cluster.pod_template(self.manifest)
            labels |= {
                "jobset.sigs.k8s.io/jobset-name": self.name,
                "jobset.sigs.k8s.io/replicatedjob-name": CONTAINER,
                "jobset.sigs.k8s.io/job-index": "0",
                "batch.kubernetes.io/job-name": self.kubernetes_job,
                "batch.kubernetes.io/job-completion-index": str(index),
            }
            annotations |= {"batch.kubernetes.io/job-completion-index": str(index)}
            wrong = ", ".join(unknown_volumes(spec))
            if wrong:
                raise ValueError(f'Pod "{self.kubernetes_job}-{index}" is invalid: {wrong}')
            pod = Pod(self, index, spec, labels, annotations)
            self.pods.append(pod)
            self.update_jobs_status()
        self.event("Normal", "SuccessfulCreate", f"Created pod: {pod.name}", on="Job", source="job-controller")
        return pod

    def pod(self, index: int) -> Pod:
        """The newest pod of a node."""
        return next(pod for pod in reversed(self.pods) if pod.index == index)

    def start(self) -> None:
        """Creates the missing pods, and starts them all."""
        if not self.pods:
            self.create_pods()
        for pod in self._active_pods():
            if "running" not in _state(pod):
                pod.start()

    # Conditions.

    def suspend(self, message: str = "TrainJob is suspended") -> None:
        """Kueue holds it back: spec.suspend, and condition Suspended=True with reason Suspended.

        Pods that it has already are deleted, as when a job of a higher priority takes its place.
        """
        with self._store.changed:
            for pod in self._active_pods():
                self._store.delete(PODS, self.namespace, pod.name)
            self._live()["spec"]["suspend"] = True
            self._set_condition("Suspended", "True", "Suspended", message)

    def resume(self, message: str = "TrainJob is resumed") -> None:
        """Kueue admits it: condition Suspended=False, reason Resumed. A running job has no other condition."""
        with self._store.changed:
            self._live()["spec"]["suspend"] = False
            self._set_condition("Suspended", "False", "Resumed", message)

    def complete(self) -> None:
        """Ends all running pods with exit code 0, and sets the condition Complete."""
        for pod in self._active_pods():
            if "running" in _state(pod):
                pod.terminate(0)
        self._set_condition("Complete", "True", "AllJobsCompleted", "jobset completed successfully")

    def fail(self, reason: str = "FailedJobs", message: str | None = None) -> None:
        """The condition Failed is True; pods that have not ended are gone, as the Job controller deletes them.

        reason: FailedJobs, DeadlineExceeded, TrainingRuntimeNotSupported.
        """
        default = {
            "FailedJobs": f"jobset failed due to one or more job failures (first failed job: {self.kubernetes_job})",
            "DeadlineExceeded": "TrainJob exceeded its active deadline",
        }
        for pod in self._active_pods():
            pod.delete()
        self._set_condition("Failed", "True", reason, message or default.get(reason, reason))

    def use_up_retries(self, exit_code: int = 1, reason: str | None = None, *, seconds: float = 0.0) -> None:
        """All pods end, the Job controller removes them, and the TrainJob is Failed: as quick as the real one.

        seconds: between each end and the removal; nobody is waited for.
        """
        for pod in self._active_pods():
            if "running" in _state(pod):
                pod.terminate(exit_code, reason)
        if seconds:
            self.sleep(seconds)
        for pod in self._active_pods():
            pod.delete()
        self.event("Warning", "BackoffLimitExceeded", "Job has reached the specified backoff limit", on="Job")
        self._set_condition(
            "Failed",
            "True",
            "FailedJobs",
            f"jobset failed due to one or more job failures (first failed job: {self.kubernetes_job})",
        )

    def expire(self) -> None:
        """Its time to live is over: removes it with its pods."""
        self.delete_by_somebody()

    def kueue_says(self, message: str, reason: str = "Pending", *, active: bool = True) -> None:
        """Kueue's Workload of this TrainJob, which it does not admit; the event on the Workload goes with it."""
        name = f"trainjob-{self.name}-a1b2c"
        with self._store.changed:
            self.check_alive()
            if self._store.find(WORKLOADS, self.namespace, name) is not None:
                self._store.remove(WORKLOADS, self.namespace, name)
            owner = {"apiVersion": TRAINJOBS.api_version, "kind": "TrainJob", "name": self.name, "uid": self.uid}
            condition = {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}
            body = {
                "metadata": {"name": name, "ownerReferences": [owner | {"controller": True}]},
                "spec": {"active": active, "queueName": "gpus"},
                "status": {"conditions": [condition | {"lastTransitionTime": now()}]},
            }
            uid = self._store.create(WORKLOADS, self.namespace, body)["metadata"]["uid"]
        self._create_event(
            "Warning", "Pending", message, ("Workload", WORKLOADS.api_version, name, uid), "kueue-admission"
        )

    def remake_pods(self) -> None:
        """Recreates the pods although the TrainJob is being deleted, as Trainer and JobSet do; used by the cluster."""
        with self._store.changed:
            body = self._store.find(TRAINJOBS, self.namespace, self.name)
            if body is None or body["metadata"]["uid"] != self.uid or self._store.closed:
                return
            template = {
                "metadata": {
                    "generateName": f"{self.kubernetes_job}-0-",
                    "labels": {"jobset.sigs.k8s.io/jobset-name": self.name},
                    "ownerReferences": [
                        {"apiVersion": TRAINJOBS.api_version, "kind": "TrainJob", "name": self.name, "uid": self.uid}
                    ],
                },
                "spec": {"containers": [{"name": CONTAINER, "image": "anew"}]},
                "status": {"phase": "Pending"},
            }
            made = self._store.create(PODS, self.namespace, template)
            self._store.delete(PODS, self.namespace, made["metadata"]["name"])
            self.cluster.pods_made_anew += 1

    def delete_by_somebody(self) -> None:
        """Deletes the TrainJob as somebody else (kubectl, in the background). The life ends here."""
        self._store.delete(TRAINJOBS, self.namespace, self.name)

    def event(
        self, type_: str, reason: str, message: str, *, on: "str | Pod" = "TrainJob", source: str = "trainer-controller"
    ) -> None:
        """An event; type_: Normal or Warning; on: TrainJob, JobSet, Job, or a Pod."""
        kinds = {
            "TrainJob": (TRAINJOBS.api_version, self.name),
            "JobSet": (JOBSETS.api_version, self.name),
            "Job": (JOBS.api_version, self.kubernetes_job),
        }
        with self._store.changed:
            self.check_alive()
            if isinstance(on, Pod):
                body = on.body
                kind, api_version, name, uid = "Pod", "v1", on.name, body["metadata"]["uid"]
            else:
                kind, (api_version, name) = on, kinds[on]
                resource = {"TrainJob": TRAINJOBS, "JobSet": JOBSETS, "Job": JOBS}[kind]
                uid = self._store.get(resource, self.namespace, name)["metadata"]["uid"]
        self._create_event(type_, reason, message, (kind, api_version, name, uid), source)

    def _create_event(
        self, type_: str, reason: str, message: str, involved: tuple[str, str, str, str], source: str
    ) -> None:
        """involved: kind, apiVersion, name, uid."""
        kind, api_version, name, uid = involved
        with self._store.changed:
            times: dict[str, Any] = {"firstTimestamp": now(), "lastTimestamp": now(), "eventTime": None, "count": 1}
            if source in ("trainer-controller", "default-scheduler"):
                # These write events.k8s.io events, which have no first and last timestamp here.
                times = {
                    "firstTimestamp": None,
                    "lastTimestamp": None,
                    "eventTime": now_exact(),
                    "action": "Reconciling" if kind == "TrainJob" else "Scheduling",
                }
            self._store.create(
                EVENTS,
                self.namespace,
                {
                    "metadata": {"name": f"{name}.{time.time_ns():x}"},
                    "involvedObject": {
                        "kind": kind,
                        "namespace": self.namespace,
                        "name": name,
                        "uid": uid,
                        "apiVersion": api_version,
                    },
                    "type": type_,
                    "reason": reason,
                    "message": message,
                    "source": {"component": source},
                    "reportingComponent": source,
                    "reportingInstance": "",
                }
                | times,
            )

    # State.

    @property
    def manifest(self) -> Body:
        """A copy of the stored TrainJob, pruned and with its defaults. Raises JobGone."""
        self.check_alive()
        return self._store.get(TRAINJOBS, self.namespace, self.name)

    @property
    def nodes(self) -> int:
        """spec.trainer.numNodes, or the runtime's 1."""
        return self.manifest["spec"].get("trainer", {}).get("numNodes", 1)

    @property
    def kubernetes_job(self) -> str:
        """Name of the batch Job that owns the pods."""
        return f"{self.name}-{CONTAINER}-0"

    # Waiting for the launcher.

    def launcher_saw(self, resource: str = "trainjobs", *, subresource: str = "", times: int = 1) -> None:
        """Waits until `times` requests for the resource that came after this call were answered.

        Answers that are faults (401, 429, 5xx, resets) do not count.

        What the life did before, the launcher then knows: launcher_saw("pods"), launcher_saw("events"),
        launcher_saw("pods", subresource="log").
        """
        known = len(self.cluster.requests)

        def seen() -> int:
            return sum(
                request.status not in _TELLS_NOTHING and request.matches(resource=resource, subresource=subresource)
                for request in self.cluster.requests[known:]
            )

        self.wait_until(lambda: seen() >= times, f"{times} requests for {resource} {subresource}".rstrip())

    def wait_for_request(self, times: int = 1, **wanted: Any) -> Request:
        """Waits until that many answered requests of this cluster's whole time match; returns the last of them.

        wanted: attributes of Request, as in verb="delete", resource="trainjobs".
        """
        self.wait_until(lambda: len(self.cluster.asked(**wanted)) >= times, f"{times} requests {wanted}")
        return self.cluster.asked(**wanted)[times - 1]

    def wait_for_log_reader(self, index: int = 0) -> None:
        """Waits until somebody follows the log of a node's newest pod."""
        self.wait_until(lambda: self.pod(index).log_readers > 0, f"a reader of the log of node {index}")

    def wait_until(self, predicate: Callable[[], object], what: str = "what a life waits for") -> None:
        """Waits until it is true; it is asked again whenever anything in the cluster changes.

        Raises TimeoutError after cluster.patience seconds, and JobGone.
        """
        with self._store.changed:
            if not self._store.changed.wait_for(self._alive_and(predicate), self.cluster.patience):
                asked = "\n".join(map(str, self.cluster.requests[-20:]))
                raise TimeoutError(f"{what}: not within {self.cluster.patience} s. Last requests:\n{asked}")

    def wait_for(self, predicate: Callable[[], object]) -> None:
        """Waits without a limit, for what does not depend on the launcher. Raises JobGone."""
        with self._store.changed:
            self._store.changed.wait_for(self._alive_and(predicate))

    def wait_for_deletion(self) -> None:
        """Waits until the TrainJob is deleted: for a life that goes on until then."""
        with self._store.changed:
            self._store.changed.wait_for(lambda: self._over)

    def sleep(self, seconds: float) -> None:
        """Sleeps; JobGone interrupts it at once."""
        end = time.monotonic() + seconds
        with self._store.changed:
            self._store.changed.wait_for(lambda: self._over or time.monotonic() >= end, seconds)
        self.check_alive()

    def _alive_and(self, predicate: Callable[[], object]) -> Callable[[], bool]:
        def asked() -> bool:
            self.check_alive()
            return bool(predicate())

        return asked

    # Used by the cluster.

    def check_alive(self) -> None:
        """Raises JobGone once the TrainJob is deleted."""
        if self._over:
            raise JobGone(self.name)

    @property
    def _over(self) -> bool:
        body = self._store.find(TRAINJOBS, self.namespace, self.name)
        return (
            self._store.closed
            or body is None
            or body["metadata"]["uid"] != self.uid
            or "deletionTimestamp" in body["metadata"]
        )

    def update_jobs_status(self) -> None:
        """status.jobsStatus as JobSet counts it: the Jobs of a replicated job, of which `node` has one.

        So ready is 1 when the pods of ALL nodes are ready, and not the number of nodes.
        """
        with self._store.changed:
            body = self._store.find(TRAINJOBS, self.namespace, self.name)
            if body is None or body["metadata"]["uid"] != self.uid:
                return
            status = body.setdefault("status", {})
            true = {one["type"] for one in status.get("conditions", ()) if one["status"] == "True"}
            finished = bool(true & {"Complete", "Failed"})
            active = [] if finished else self._active_pods()
            nodes = body["spec"].get("trainer", {}).get("numNodes", 1)
            in_place = {
                pod.index for pod in self.pods if _succeeded(pod) or (pod in active and "running" in _state(pod))
            }
            status["jobsStatus"] = [
                {
                    "name": CONTAINER,
                    "ready": int(not finished and len(in_place) >= nodes),
                    "active": int(bool(active)),
                    "succeeded": int("Complete" in true),
                    "failed": int("Failed" in true),
                    "suspended": int("Suspended" in true and not finished),
                }
            ]
            self._store.touch(body)

    def _create_children(self) -> None:
        owner: dict[str, Any] = {"controller": True, "blockOwnerDeletion": True}
        jobset = self._store.create(
            JOBSETS,
            self.namespace,
            {
                "metadata": {
                    "name": self.name,
                    "ownerReferences": [
                        owner
                        | {"apiVersion": TRAINJOBS.api_version, "kind": "TrainJob", "name": self.name, "uid": self.uid}
                    ],
                }
            },
        )
        self._store.create(
            JOBS,
            self.namespace,
            {
                "metadata": {
                    "name": self.kubernetes_job,
                    "ownerReferences": [
                        owner
                        | {
                            "apiVersion": JOBSETS.api_version,
                            "kind": "JobSet",
                            "name": self.name,
                            "uid": jobset["metadata"]["uid"],
                        }
                    ],
                }
            },
        )
        self.update_jobs_status()

    def _live(self) -> Body:
        self.check_alive()
        return self._store.live(TRAINJOBS, self.namespace, self.name)

    def _set_condition(self, type_: str, status: str, reason: str, message: str) -> None:
        with self._store.changed:
            body = self._live()
            conditions = body.setdefault("status", {}).setdefault("conditions", [])
            conditions[:] = [one for one in conditions if one["type"] != type_]
            conditions.append(
                {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}
            )
            self._store.touch(body)
            self.update_jobs_status()

    def _active_pods(self) -> list[Pod]:
        active = []
        for pod in self.pods:
            try:
                body = pod.body
            except ApiError:
                continue
            if body["status"]["phase"] in ("Pending", "Running") and "deletionTimestamp" not in body["metadata"]:
                active.append(pod)
        return active


def _state(pod: Pod) -> Body:
    statuses = pod.body["status"].get("containerStatuses")
    return statuses[0]["state"] if statuses else {}


def _succeeded(pod: Pod) -> bool:
    try:
        return pod.body["status"]["phase"] == "Succeeded"
    except ApiError:
        return False
