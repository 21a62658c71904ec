"""One TrainJob of ours: found or created, looked at, deleted."""

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
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.state import FAILED, read_state
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


class Job:
    """One TrainJob, from finding or creating it to its end.

    Attributes:
        name: of the TrainJob.
        place: how people are told of it.
        uid: of the TrainJob; empty while it is not known.
        exists: whether there may be one of ours.
    """

    def __init__(self, cluster: Cluster, name: str, config: TrainingConfig, timing: Timing) -> None:
        self.name, self.uid, self.exists = name, "", False
        self.place = f"TrainJob {name} in namespace {cluster.namespace}"
        self._cluster, self._config, self._timing = cluster, config, timing
        self._in_doubt = False

    def take_up(self) -> bool:
        """Looks for a TrainJob that an earlier attempt left. True: it runs or is complete, and will be followed.

        Else none is there, and no pod of one: two trainings in one folder would spoil it.
        """
        found = self._cluster.trainjob(self.name)
        if found is not None and self._follows(found):
            return True
        self._wait_for_its_end(found)
        return False

    def create(self, spec: Mapping[str, Any], pods: TrainingPods, owner: Mapping[str, Any] | None) -> None:
        """Creates it, with the Secret that its pods need.

        Raises:
            ClusterError, InputError: nothing of it is left.
        """
        secret = f"{self.name}-env-{secrets.token_hex(3)}" if pods.secret_env else ""
        if secret:
            # Known before a GPU is asked for.
            self._create_secret(secret, pods.secret_env, None)
        creation = secrets.token_hex(8)
        variables = {secret: sorted(pods.secret_env)} if secret else {}
        body = trainjob(self.name, spec, self._config, variables, owner, creation)
        stored = self._stored(body, creation)
        if stored is None:
            return
        if dropped := dropped_fields(body["spec"], stored["spec"]):
            raise InputError(
                f"the cluster's Trainer does not know {', '.join(dropped)}, and dropped it: the training "
                "would run without; this generation of the Trainer is not supported"
            )
        if secret:
            self._create_secret(secret, pods.secret_env, stored)
        limits = ", ".join(f"{quantity} {name}" for name, quantity in pods.limits.items())
        log(
            f"{self.place} created: {self._config.trainjob['num_workers']} x {limits}, runtime "
            f"{self._config.trainjob['runtime']}"
        )

    def get(self) -> dict[str, Any] | None:
        """The TrainJob as it is now; None where this one is gone."""
        found = self._cluster.trainjob(self.name)
        if found is None or (self.uid and found["metadata"]["uid"] != self.uid):
            return None
        return found

    def pods(self, only: str = "") -> list[dict[str, Any]]:
        """All of its pods, those of an earlier TrainJob of the same name too; `only`: a further label selector."""
        return self._cluster.pods(f"jobset.sigs.k8s.io/jobset-name={self.name}{only}")

    def delete(self, quietly: bool = False) -> bool:
        """Deletes it and waits until its pods are gone; says what is left. False: it could not be deleted.

        The request is the first thing that happens, and what is said comes after it: a launcher that Argo ends has a
        second, and nobody reads its log any more.

        Args:
            quietly: the log's reader may be gone: an error in writing to it is none.
        """
        until = time.monotonic() + self._timing.deletion
        self._cluster.patience = self._timing.look
        accepted, problem = False, ""
        left: list[str] | None = None
        while True:
            try:
                accepted = accepted or self._ask_for_deletion()
                self.exists = False
                first, left = left is None, [pod["metadata"]["name"] for pod in self.pods() if not _has_ended(pod)]
                if not left:
                    break
                if first:
                    _say(f"{self.place} is deleted; its pods end: {', '.join(left)}", quietly)
            except ClusterError as error:
                if not problem:
                    _say(f"{error}. {self.place} is to be deleted: asking again", quietly)
                problem = str(error)
            if time.monotonic() > until:
                break
            time.sleep(min(1, self._timing.poll))
        if not accepted:
            _say(
                f"Warning: {self.place} may still hold its GPUs, it could not be deleted: {problem}. Delete it with: "
                f"kubectl delete trainjob {self.name} -n {self._cluster.namespace}",
                quietly,
            )
        elif left == []:
            _say(f"{self.place} is deleted, its pods are gone", quietly)
        else:
            seen = f"these pods are still there: {', '.join(left)}" if left else f"its pods cannot be seen: {problem}"
            _say(f"Warning: {self.place} is deleted; {seen}", quietly)
        return accepted

    def _follows(self, found: Mapping[str, Any]) -> bool:
        """Whether this TrainJob is to be followed; else it is in the way, and being deleted or deleted here."""
        metadata = found["metadata"]
        if metadata.get("annotations", {}).get(TRAINING_ANNOTATION) != self._config.fingerprint:
            raise InputError(f"there is a {self.place} that this task has not made; delete or rename it")
        if metadata.get("deletionTimestamp"):
            log(f"{self.place} of an earlier attempt is being deleted")
            return False
        self.uid, self.exists = metadata["uid"], True
        if read_state(found, []).phase != FAILED:
            log(f"{self.place} of an earlier attempt is there: followed")
            return True
        log(f"{self.place} of an earlier attempt failed: replaced")
        if not self.delete():
            self.exists = False
            raise InputError(f"the {self.place} of an earlier attempt cannot be replaced: it could not be deleted")
        self.uid = ""
        return False

    def _wait_for_its_end(self, found: Mapping[str, Any] | None) -> None:
        """Until neither a TrainJob of the name nor a pod of one is there."""
        until, told = time.monotonic() + self._timing.deletion, False
        while True:
            left = [pod["metadata"]["name"] for pod in self.pods() if not _has_ended(pod)]
            if found is not None:
                found = self._cluster.trainjob(self.name)
            if not left and found is None:
                return
            if not told:
                told = True
                log(f"Waiting for the end of an earlier {self.place}: {', '.join(left) or 'it is being deleted'}")
            if time.monotonic() > until:
                raise InputError(
                    f"an earlier {self.place} is still there after {self._timing.deletion:.0f} s "
                    f"({', '.join(left) or 'being deleted'}): it would train in the same folder. See why it does not "
                    "end, then run this again"
                )
            time.sleep(min(1, self._timing.poll))

    def _stored(self, body: Mapping[str, Any], creation: str) -> dict[str, Any] | None:
        """The TrainJob as it is stored; None where another launcher of this task was first, whose is followed."""
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
                    # It was there a moment ago.
                    continue
                # Created by a request whose answer was lost, and which was sent again; or by somebody else.
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
        """Whether it is deleted now. One whose creation was interrupted may turn up after it was asked for."""
        if not self._in_doubt:
            self._cluster.delete_trainjob(self.name, self.uid)
            return True
        until = time.monotonic() + self._timing.doubt
        while not self._cluster.delete_trainjob(self.name) and time.monotonic() < until:
            time.sleep(min(0.5, self._timing.poll))
        self._in_doubt = False
        return True

    def _create_secret(self, name: str, values: dict[str, str], owner: Mapping[str, Any] | None) -> None:
        """Creates it, owned by the TrainJob; without an owner it only sees whether that is allowed."""
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
                f"{names} is given to this task as a value, and would go to the training pods in a Secret, which may "
                f"not be created: {error}. Give it from a Secret of the namespace "
                "(kfp.kubernetes.use_secret_as_env on the task), or allow the verb"
            ) from None


def owner_of_this_pod(cluster: Cluster) -> dict[str, Any] | None:
    """What the launcher's own pod belongs to (the Workflow), as owner: the TrainJob goes with the run, and not with
    this pod, which a retry deletes. None where this is not a pod of that cluster, since Kubernetes deletes an object at
    once whose owner is not there."""
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


def _has_ended(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _runtimes(cluster: Cluster) -> str:
    """Which runtimes there are, as far as the token may see it."""
    own, shared = cluster.runtime_names()
    names = sorted({*(own or []), *(shared or [])})
    hidden = [
        what
        for what, seen in ((f"TrainingRuntimes of {cluster.namespace}", own), ("ClusterTrainingRuntimes", shared))
        if seen is None
    ]
    known = f"Runtimes that training_runtime can name: {', '.join(names)}" if names else "It sees no runtime"
    if not hidden:
        return known
    may_not = f"this token may not list {' and '.join(hidden)}; ask whoever runs the cluster"
    return f"{known}; {may_not}" if names else f"{may_not[0].upper()}{may_not[1:]}"


def _say(message: str, quietly: bool) -> None:
    try:
        log(message)
    except OSError:
        if not quietly:
            raise
