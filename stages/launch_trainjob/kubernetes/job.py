"""The TrainJob of this task: adopted or created, read, deleted."""

import os
import secrets
import time
from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.kubernetes.client import Cluster
from kfp_osft.stages.launch_trainjob.kubernetes.errors import ClusterError, Forbidden, Refused
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.state import COMPLETE, FAILED, read_phase
from kfp_osft.stages.launch_trainjob.kubernetes.pods import TrainingPods
from kfp_osft.stages.launch_trainjob.kubernetes.timing import Timing
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import (
    CREATION_ANNOTATION,
    MANAGED_BY,
    TRAINING_ANNOTATION,
    dropped_fields,
    trainjob,
)

_CONFLICT = 409
# Of a pod: name of its TrainJob.
_POD_LABEL = "jobset.sigs.k8s.io/jobset-name"


class Job:
    """One TrainJob, from its adoption or creation to its deletion.

    Attributes:
        name: of the TrainJob.
        place: what messages call it.
        uid: of the TrainJob; empty while unknown.
        exists: whether there may be one that is ours to delete.
    """

    def __init__(self, cluster: Cluster, name: str, config: TrainingConfig, timing: Timing) -> None:
        self.name, self.uid, self.exists = name, "", False
        self.place = f"TrainJob {name} in namespace {cluster.namespace}"
        self._cluster, self._config, self._timing = cluster, config, timing
        self._in_doubt = False

    def adopt(self) -> bool:
        """Looks for a TrainJob of an earlier attempt. True: it is running or complete, and will be followed.

        Otherwise neither a TrainJob nor a pod of one is left: two trainings would corrupt their common folder.
        """
        found = self._cluster.trainjob(self.name)
        if found is not None and self._follows(found):
            return True
        self._wait_for_its_end(found)
        return False

    def create(self, spec: Mapping[str, Any], pods: TrainingPods, owner: Mapping[str, Any] | None) -> None:
        """Creates it, with the Secret that its pods need.

        Raises:
            ClusterError, InputError: it was not created.
        """
        secret = f"{self.name}-env-{secrets.token_hex(3)}" if pods.secret_env else ""
        if secret:
            # Fails before any GPU is requested.
            self._create_secret(secret, pods.secret_env, None)
        creation = secrets.token_hex(8)
        variables = {secret: sorted(pods.secret_env)} if secret else {}
        body = trainjob(self.name, spec, self._config, variables, owner, creation)
        stored = self._stored(body, creation)
        if stored is None:
            return
        if dropped := dropped_fields(body["spec"], stored["spec"]):
            raise InputError(
                f"the cluster's Trainer dropped {', '.join(dropped)}, which it does not know: the training "
                "would run without it; this generation of the Trainer is not supported"
            )
        if secret:
            self._create_secret(secret, pods.secret_env, stored)
        limits = ", ".join(f"{quantity} {name}" for name, quantity in pods.limits.items())
        log(
            f"{self.place} created: {self._config.trainjob['num_workers']} x {limits}, runtime "
            f"{self._config.trainjob['runtime']}"
        )

    def get(self) -> dict[str, Any] | None:
        """The TrainJob as it is now; None if it no longer exists."""
        found = self._cluster.trainjob(self.name)
        if found is None or (self.uid and found["metadata"]["uid"] != self.uid):
            return None
        return found

    def pods(self, only: str = "") -> list[dict[str, Any]]:
        """Its pods, including those of an earlier TrainJob of the same name; `only`: a further label selector."""
        return self._cluster.pods(f"{_POD_LABEL}={self.name}{only}")

    def may_write(self) -> bool:
        """Whether it or one of its pods may still write; also where the cluster does not answer."""
        try:
            return self.exists or bool(self._living_pods())
        except ClusterError:
            return True

    def delete(self, quietly: bool = False) -> bool:
        """Deletes it and waits until its pods are gone; logs what is left. False: it could not be deleted.

        The request comes first and logging after it: a launcher that Argo terminates may have only a second, and nobody
        reads its log any more.

        Args:
            quietly: ignore errors in writing the log, whose reader may be gone.
        """
        until = time.monotonic() + self._timing.deletion
        self._cluster.patience = self._timing.look
        accepted, problem = False, ""
        left: list[str] | None = None
        while True:
            try:
                accepted = accepted or self._ask_for_deletion()
                self.exists = False
                first, left = left is None, self._living_pods()
                if not left:
                    break
                if first:
                    _log_deletion(f"{self.place} is deleted; its pods are terminating: {', '.join(left)}", quietly)
            except ClusterError as error:
                if not problem:
                    _log_deletion(f"{error}. {self.place} is to be deleted: retrying", quietly)
                problem = str(error)
            if time.monotonic() > until:
                break
            time.sleep(min(1, self._timing.poll))
        if not accepted:
            _log_deletion(
                f"Warning: {self.place} could not be deleted and may still hold its GPUs: {problem}. Delete it with: "
                f"kubectl delete trainjob {self.name} -n {self._cluster.namespace}",
                quietly,
            )
        elif left == []:
            _log_deletion(f"{self.place} is deleted, its pods are gone", quietly)
        else:
            seen = f"these pods still exist: {', '.join(left)}" if left else f"its pods cannot be listed: {problem}"
            _log_deletion(f"Warning: {self.place} is deleted; {seen}", quietly)
        return accepted

    def _living_pods(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods() if not _has_ended(pod)]

    def _follows(self, found: Mapping[str, Any]) -> bool:
        """Whether to follow this TrainJob; otherwise it is being deleted, or failed and is deleted here."""
        metadata = found["metadata"]
        if metadata.get("annotations", {}).get(TRAINING_ANNOTATION) != self._config.fingerprint:
            raise InputError(f"{self.place} already exists and was not created by this task; delete it")
        if metadata.get("deletionTimestamp"):
            log(f"{self.place} of an earlier attempt is being deleted")
            return False
        self.uid, self.exists = metadata["uid"], True
        if read_phase(found) != FAILED:
            log(f"{self.place} exists from an earlier attempt: following it")
            return True
        log(f"{self.place} failed in an earlier attempt: replacing it")
        if not self.delete():
            self.exists = False
            raise InputError(f"{self.place} of an earlier attempt cannot be replaced: it could not be deleted")
        self.uid = ""
        return False

    def _wait_for_its_end(self, found: Mapping[str, Any] | None) -> None:
        """Waits until neither a TrainJob of this name nor a pod of one exists."""
        until, logged = time.monotonic() + self._timing.deletion, False
        while True:
            left = self._living_pods()
            if found is not None:
                found = self._cluster.trainjob(self.name)
            if not left and found is None:
                return
            if not logged:
                logged = True
                log(f"Waiting until an earlier {self.place} is gone: {', '.join(left) or 'it is being deleted'}")
            if time.monotonic() > until:
                raise InputError(
                    f"an earlier {self.place} still exists after {self._timing.deletion:.0f} s "
                    f"({', '.join(left) or 'being deleted'}) and would train in the same folder. Find out why it does "
                    "not end, then run this again"
                )
            time.sleep(min(1, self._timing.poll))

    def _stored(self, body: Mapping[str, Any], creation: str) -> dict[str, Any] | None:
        """The TrainJob as stored; None if another launcher of this task created it first: that one is followed."""
        until = time.monotonic() + self._timing.creation
        while True:
            self.exists = self._in_doubt = True
            try:
                stored = self._cluster.create_trainjob(body)
            except Forbidden:
                self.exists = self._in_doubt = False
                raise
            except Refused as error:
                self.exists = self._in_doubt = False
                found = self._cluster.trainjob(self.name) if error.status == _CONFLICT else None
                if error.status != _CONFLICT or time.monotonic() > until:
                    more = f". {_runtimes(self._cluster)}" if "runtime" in str(error).lower() else ""
                    raise InputError(f"{error}{more}") from None
                if found is None:
                    # Deleted a moment ago.
                    continue
                # Created by a request whose response was lost and which was retried, or by somebody else.
                if found["metadata"].get("annotations", {}).get(CREATION_ANNOTATION) != creation:
                    if self._follows(found):
                        return None
                    self._wait_for_its_end(found)
                    continue
                stored = found
            self.exists, self._in_doubt = True, False
            self.uid = stored.get("metadata", {}).get("uid", "")
            if stored["metadata"].get("annotations", {}).get(CREATION_ANNOTATION) != creation:
                raise InputError(f"the cluster did not store the {self.place} as it was sent")
            return stored

    def _ask_for_deletion(self) -> bool:
        """True once deletion is requested. A TrainJob whose creation was interrupted may appear only after a while."""
        if not self._in_doubt:
            self._cluster.delete_trainjob(self.name, self.uid)
            return True
        until = time.monotonic() + self._timing.doubt
        while not self._cluster.delete_trainjob(self.name) and time.monotonic() < until:
            time.sleep(min(0.5, self._timing.poll))
        self._in_doubt = False
        return True

    def _create_secret(self, name: str, values: dict[str, str], owner: Mapping[str, Any] | None) -> None:
        """Creates it, owned by the TrainJob; without an owner, checks only whether that is allowed."""
        metadata: dict[str, Any] = {"name": name, "labels": MANAGED_BY}
        if owner:
            metadata["ownerReferences"] = [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": self.name,
                    "uid": owner["metadata"]["uid"],
                }
            ]
        try:
            self._cluster.create_secret(
                {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "stringData": values},
                dry_run=owner is None,
            )
        except Forbidden as error:
            names = ", ".join(sorted(values))
            raise InputError(
                f"{names} is set on this task by value and must go to the training pods in a Secret, which may "
                f"not be created: {error}. Set it from a Secret of the namespace "
                "(kfp.kubernetes.use_secret_as_env on the task), or grant the verb"
            ) from None


def owner_of_this_pod(cluster: Cluster) -> dict[str, Any] | None:
    """ownerReference to the owner of the launcher's pod, the Workflow: the TrainJob is deleted with the run, not with
    this pod, which a retry deletes. None if this is not a pod of that cluster, since Kubernetes deletes an object at
    once if its owner does not exist."""
    name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
    if not name or not uid:
        return None
    try:
        pod = cluster.pod(name)
    except Forbidden:
        return None
    if not pod or pod["metadata"].get("uid") != uid:
        return None
    owners = pod["metadata"].get("ownerReferences") or [{**pod["metadata"], "apiVersion": "v1", "kind": "Pod"}]
    owner = next((one for one in owners if one.get("controller")), owners[0])
    return {field: owner[field] for field in ("apiVersion", "kind", "name", "uid")}


def trainjob_lives(cluster: Cluster, key: str) -> bool | None:
    """Whether a TrainJob may still write; None for one of another namespace, which this token need not see.

    Args:
        key: namespace/name.
    """
    namespace, _, name = key.partition("/")
    if namespace != cluster.namespace:
        return None
    found = cluster.trainjob(name)
    if found is not None and read_phase(found) not in (COMPLETE, FAILED):
        return True
    return any(not _has_ended(pod) for pod in cluster.pods(f"{_POD_LABEL}={name}"))


def _has_ended(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _runtimes(cluster: Cluster) -> str:
    """The runtimes that exist, as far as the token may list them."""
    own, shared = cluster.runtime_names()
    names = sorted(set(own or ()) | set(shared or ()))
    hidden = [
        what
        for what, listed in ((f"TrainingRuntimes of {cluster.namespace}", own), ("ClusterTrainingRuntimes", shared))
        if listed is None
    ]
    known = f"Allowed for training_runtime: {', '.join(names)}" if names else "No runtime was found"
    if not hidden:
        return known
    may_not = f"this token may not list {' and '.join(hidden)}; ask the administrator of the cluster"
    return f"{known}; {may_not}" if names else f"{may_not[0].upper()}{may_not[1:]}"


def _log_deletion(message: str, quietly: bool) -> None:
    try:
        log(message)
    except OSError:
        if not quietly:
            raise
