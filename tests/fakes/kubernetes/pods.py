"""A pod of a TrainJob, and what the scheduler and the kubelet do to it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fakes.kubernetes.pod_log import ContainerLog
from fakes.kubernetes.resources import JOBS, PODS
from fakes.kubernetes.status import ApiError
from fakes.kubernetes.store import Body, Store, now

if TYPE_CHECKING:
    from fakes.kubernetes.lives import Job

CONTAINER = "node"

_UNREADY = f"containers with unready status: [{CONTAINER}]"

_EVICTED = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 4Ki. "

#: The kubelet's messages for a waiting container, by reason.
_WAITING_MESSAGES = {
    "ImagePullBackOff": 'Back-off pulling image "{image}"',
    "ErrImagePull": 'failed to pull and unpack image "{image}": not found',
    "CreateContainerConfigError": 'secret "credentials" not found',
    "CrashLoopBackOff": "back-off 10s restarting failed container={container} pod={pod}",
}

#: The kubelet's errors for a log that does not exist yet, by the container's waiting reason.
_NO_LOG_YET = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}

_container_ids = itertools.count(1)


class Pod:
    """One pod. Its operations take effect at once, return nothing, and raise JobGone once it is deleted.

    Attributes:
        name: of the pod.
        index: of its node, 0 for the one whose log matters.
    """

    def __init__(self, job: "Job", index: int, spec: Body, labels: dict[str, str], annotations: dict[str, str]) -> None:
        self._job = job
        self._store: Store = job.cluster.store
        self.index = index
        self._runs: list[ContainerLog] = []
        self._unreachable = self._evicted = False
        owner = self._store.get(JOBS, job.namespace, job.kubernetes_job)
        body = {
            "metadata": {
                "name": f"{job.kubernetes_job}-{index}-{self._store.next_suffix()}",
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": job.kubernetes_job,
                        "uid": owner["metadata"]["uid"],
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": spec,
            "status": {"phase": "Pending", "qosClass": "Burstable", "conditions": []},
        }
        self.name: str = self._store.create(PODS, job.namespace, body)["metadata"]["name"]
        job.cluster.know_pod(self)

    # The scheduler's actions.

    def unschedulable(self, message: str) -> None:
        """No node fits: condition PodScheduled False with reason Unschedulable, and the event FailedScheduling."""
        with self._change() as pod:
            _set_condition(pod, "PodScheduled", "False", "Unschedulable", message)
        self.event("Warning", "FailedScheduling", message, source="default-scheduler")

    def scheduled(self, node: str | None = None) -> None:
        """A node is found (gpu-node-<index> unless given); its kubelet has the container in ContainerCreating."""
        node = node or f"gpu-node-{self.index}"
        with self._change() as pod:
            pod["spec"]["nodeName"] = node
            _set_condition(pod, "PodScheduled", "True")
            _set_condition(pod, "Ready", "False", "ContainersNotReady", _UNREADY)
            pod["status"] |= {
                "hostIP": "10.0.0.1",
                "startTime": now(),
                "containerStatuses": [
                    {
                        "name": CONTAINER,
                        "image": self.image,
                        "imageID": "",
                        "ready": False,
                        "started": False,
                        "restartCount": 0,
                        "lastState": {},
                        "state": {"waiting": {"reason": "ContainerCreating"}},
                    }
                ],
            }
        self.event(
            "Normal",
            "Scheduled",
            f"Successfully assigned {self._job.namespace}/{self.name} to {node}",
            source="default-scheduler",
        )

    # The kubelet's actions.

    def pulling(self) -> None:
        """The image is being pulled: still ContainerCreating, and the event Pulling."""
        self._be_scheduled()
        self.event("Normal", "Pulling", f'Pulling image "{self.image}"')

    def waiting(self, reason: str, message: str | None = None) -> None:
        """The container waits: ContainerCreating, ImagePullBackOff, ErrImagePull, CreateContainerConfigError or
        CrashLoopBackOff; without a message, the kubelet's usual one. The event Failed or BackOff goes with it."""
        self._be_scheduled()
        if message is None and reason in _WAITING_MESSAGES:
            message = _WAITING_MESSAGES[reason].format(image=self.image, container=CONTAINER, pod=self.name)
        with self._change() as pod:
            container = pod["status"]["containerStatuses"][0]
            if "terminated" in container["state"]:
                container["lastState"] = container["state"]
            container["state"] = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
            container["ready"] = container["started"] = False
        if reason in ("ImagePullBackOff", "CrashLoopBackOff"):
            self.event("Warning", "BackOff", message or "")
        elif reason != "ContainerCreating":
            self.event("Warning", "Failed", f"Error: {message}")

    def start(self) -> None:
        """The container runs and is ready, with a new and empty log."""
        self._be_scheduled()
        with self._change() as pod:
            container = pod["status"]["containerStatuses"][0]
            identity = f"containerd://{next(_container_ids):064x}"
            container |= {
                "state": {"running": {"startedAt": now()}},
                "ready": True,
                "started": True,
                "containerID": identity,
                "imageID": f"{self.image}@sha256:{'0' * 64}",
            }
            pod["status"] |= {"phase": "Running", "podIP": f"10.1.0.{self.index + 1}"}
            _set_condition(pod, "Ready", "True")
            self._runs.append(ContainerLog(self._store.changed))
        self.event("Normal", "Started", f"Started container {CONTAINER}")

    def log(self, *lines: str) -> None:
        """Writes whole lines to the running container's log."""
        for line in lines:
            self.log_part(line + "\n")

    def log_part(self, text: str | bytes) -> None:
        """Writes text as it is: without a newline at its end, its last line is incomplete."""
        self._job.check_alive()
        self._current_run().write(text.encode() if isinstance(text, str) else text)

    def cut_log(self) -> None:
        """Resets the connections that follow the log (TCP RST), after all that was written so far was sent to them.

        Returns when they are gone. Call job.wait_for_log_reader() first, for there to be one.
        """
        self._job.check_alive()
        self._current_run().cut(self._job.cluster.patience)

    def terminate(self, exit_code: int, reason: str | None = None, message: str | None = None) -> None:
        """Ends the container and its log; the pod's phase is Succeeded for exit code 0.

        After another code the pod stays in phase Running, as with restartPolicy OnFailure: restart() it, let it
        wait in CrashLoopBackOff, or delete() it as the Job controller does when the backoff is used up.
        reason: Completed for 0 and Error otherwise, unless given (OOMKilled goes with 137).
        """
        with self._change() as pod:
            container = pod["status"]["containerStatuses"][0]
            started = container["state"].get("running", {}).get("startedAt", now())
            ended = {
                "exitCode": exit_code,
                "reason": reason or ("Error" if exit_code else "Completed"),
                "startedAt": started,
                "finishedAt": now(),
                "containerID": container.get("containerID", ""),
            }
            container |= {
                "state": {"terminated": ended | ({"message": message} if message else {})},
                "ready": False,
                "started": False,
            }
            if exit_code == 0:
                pod["status"]["phase"] = "Succeeded"
                _set_condition(pod, "Ready", "False", "PodCompleted")
            else:
                _set_condition(pod, "Ready", "False", "ContainersNotReady", _UNREADY)
            for run in self._runs[-1:]:
                run.end()

    def restart(self) -> None:
        """Restarts the container after terminate(): restartCount + 1, lastState, a new log."""
        with self._change() as pod:
            container = pod["status"]["containerStatuses"][0]
            container["restartCount"] += 1
            if "terminated" in container["state"]:
                container["lastState"] = container["state"]
        self.start()

    def evict(self, message: str = _EVICTED) -> None:
        """Evicts it: phase Failed with reason Evicted; its containers and their logs are gone."""
        with self._change() as pod:
            pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}
            _set_condition(pod, "DisruptionTarget", "True", "TerminationByKubelet", message)
            _set_condition(pod, "Ready", "False", "PodFailed")
            for container in pod["status"].get("containerStatuses", ()):
                container |= {
                    "ready": False,
                    "started": False,
                    "state": {
                        "terminated": {"exitCode": 137, "reason": "Error", "finishedAt": now(), "startedAt": now()}
                    },
                }
            self._evicted = True
            self._end_logs()
        self.event("Warning", "Evicted", message)

    def lose_node(self) -> None:
        """The node stops answering: not Ready, reason NodeLost, marked for deletion but still there; without a log."""
        with self._change() as pod:
            node = pod["spec"].get("nodeName", "")
            pod["status"] |= {
                "reason": "NodeLost",
                "message": f"Node {node} which was running pod {self.name} is unresponsive",
            }
            _set_condition(pod, "Ready", "False")
            _set_condition(
                pod,
                "DisruptionTarget",
                "True",
                "DeletionByTaintManager",
                "Taint manager: deleting due to NoExecute taint",
            )
            pod["metadata"]["deletionTimestamp"] = now()
            self._unreachable = True
            self._end_logs()
        self.event("Warning", "NodeNotReady", "Node is not ready", source="node-controller")

    def delete(self) -> None:
        """Removes the pod at once, as the Job controller does with a failed one, or an administrator by force."""
        with self._store.changed:
            self._job.check_alive()
            self._end_logs()
            self._store.remove(PODS, self._job.namespace, self.name)
            self._job.update_jobs_status()

    def event(self, type_: str, reason: str, message: str, *, source: str = "kubelet") -> None:
        """An event on this pod; type_: Normal or Warning."""
        self._job.event(type_, reason, message, on=self, source=source)

    # State.

    @property
    def image(self) -> str:
        return self.body["spec"]["containers"][0]["image"]

    @property
    def body(self) -> Body:
        """A copy of the Pod. Raises ApiError 404 once it is gone."""
        return self._store.get(PODS, self._job.namespace, self.name)

    @property
    def log_readers(self) -> int:
        """Number of connections that follow the newest log."""
        return self._runs[-1].readers if self._runs else 0

    @property
    def logs(self) -> list[str]:
        """What each run of the container wrote, oldest first."""
        return [run.text for run in self._runs]

    def log_of(self, *, container: str, previous: bool) -> ContainerLog | None:
        """The log that the kubelet would serve; None: an empty answer, while no node has the pod.

        Raises ApiError in the kubelet's words.
        """
        pod = self.body
        names = [one["name"] for one in pod["spec"]["containers"]]
        if container and container not in names:
            raise ApiError(400, f"container {container} is not valid for pod {self.name}")
        if not pod["spec"].get("nodeName"):
            return None
        if self._unreachable:
            raise ApiError(
                500,
                f'Get "https://10.0.0.1:10250/containerLogs/{self._job.namespace}/{self.name}/'
                f'{CONTAINER}": dial tcp 10.0.0.1:10250: i/o timeout',
            )
        if self._evicted:
            gone = ContainerLog(self._store.changed)
            gone.write(b"unable to retrieve container logs for containerd://" + b"0" * 64)
            gone.end()
            return gone
        status = pod["status"]["containerStatuses"][0]
        started_again = "terminated" in status["lastState"]
        ran = "waiting" not in status["state"]
        if previous:
            if not started_again:
                raise ApiError(400, f'previous terminated container "{CONTAINER}" in pod "{self.name}" not found')
            return self._runs[-2 if ran else -1]
        if ran or started_again:
            return self._runs[-1]
        reason = status["state"]["waiting"]["reason"]
        raise ApiError(
            400, f'container "{CONTAINER}" in pod "{self.name}" is waiting to start: {_NO_LOG_YET.get(reason, reason)}'
        )

    def ended(self) -> None:
        """Called when the store has removed the pod."""
        self._end_logs()

    def _be_scheduled(self) -> None:
        if not self.body["spec"].get("nodeName"):
            self.scheduled()

    def _current_run(self) -> ContainerLog:
        if not self._runs or self._runs[-1].ended:
            raise ValueError(f"pod {self.name} has no running container; start() comes first")
        return self._runs[-1]

    def _end_logs(self) -> None:
        for run in self._runs:
            run.end()

    @contextmanager
    def _change(self) -> Iterator[Body]:
        """The Pod itself, to change; updates the TrainJob's jobsStatus afterwards."""
        with self._store.changed:
            self._job.check_alive()
            pod = self._store.live(PODS, self._job.namespace, self.name)
            yield pod
            self._store.touch(pod)
            self._job.update_jobs_status()


def _set_condition(pod: Body, type_: str, status: str, reason: str = "", message: str = "") -> None:
    conditions = pod["status"]["conditions"]
    conditions[:] = [one for one in conditions if one["type"] != type_]
    condition = {"type": type_, "status": status, "lastProbeTime": None, "lastTransitionTime": now()}
    conditions.append(condition | ({"reason": reason} if reason else {}) | ({"message": message} if message else {}))
