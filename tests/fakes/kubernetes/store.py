"""The objects of the cluster: creation, changes and deletion.

One condition guards all state: whoever changes something holds it and notifies; lives and followed logs wait on it.
"""

import copy
import hashlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from fakes.kubernetes.resources import Resource
from fakes.kubernetes.status import already_exists, not_found

Body = dict[str, Any]


def now() -> str:
    """The time as metav1.Time writes it: whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_exact() -> str:
    """The time as metav1.MicroTime writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def random_suffix(number: int) -> str:
    """Five characters as generateName appends them, the same for the same number."""
    alphabet = "bcdfghjklmnpqrstvwxz2456789"
    digest = hashlib.sha256(str(number).encode()).digest()
    return "".join(alphabet[byte % len(alphabet)] for byte in digest[:5])


class Store:
    """Objects by resource, namespace and name.

    Attributes:
        changed: guards all state of the cluster.
        termination_seconds: how long what is deleted stays, with a deletionTimestamp, until it is gone.
        removed: called with the resource and the object when it is gone, changed held.
        closed: the server is going down.
    """

    def __init__(self, termination_seconds: float) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.termination_seconds = termination_seconds
        self.closed = False
        self.removed: list[Callable[[Resource, Body], None]] = []
        self._objects: dict[tuple[Resource, str, str], Body] = {}
        self._revision = itertools.count(1000)
        self._suffix = itertools.count(1)
        self._leaving: set[str] = set()

    def get(self, resource: Resource, namespace: str, name: str) -> Body:
        """A copy. Raises ApiError 404."""
        with self.changed:
            return copy.deepcopy(self.live(resource, namespace, name))

    def live(self, resource: Resource, namespace: str, name: str) -> Body:
        """The object itself, to change while holding `changed` and then touch. Raises ApiError 404."""
        try:
            return self._objects[resource, namespace, name]
        except KeyError:
            raise not_found(resource.qualified, name) from None

    def find(self, resource: Resource, namespace: str, name: str) -> Body | None:
        """The object itself, or None."""
        return self._objects.get((resource, namespace, name))

    def list(
        self, resource: Resource, namespace: str, wanted: Callable[[Body], bool] = lambda body: True
    ) -> list[Body]:
        """Copies, by name."""
        with self.changed:
            return [
                copy.deepcopy(body)
                for (kind, where, _), body in sorted(self._objects.items(), key=_by_name)
                if kind == resource and where == namespace and wanted(body)
            ]

    def create(self, resource: Resource, namespace: str, body: Body, *, dry_run: bool = False) -> Body:
        """Stores a copy with what the server adds to its metadata; returns a copy of that. Raises ApiError 409."""
        with self.changed:
            body = copy.deepcopy(body)
            metadata = body.setdefault("metadata", {})
            if not metadata.get("name"):
                metadata["name"] = f"{metadata.get('generateName', '')}{random_suffix(next(self._suffix))}"
            old = self.find(resource, namespace, metadata["name"])
            if old is not None:
                raise already_exists(
                    resource.qualified, metadata["name"], being_deleted="deletionTimestamp" in old["metadata"]
                )
            metadata |= {
                "uid": str(uuid.uuid4()),
                "creationTimestamp": now(),
                "resourceVersion": str(next(self._revision)),
            }
            if namespace:
                metadata["namespace"] = namespace
            if resource.group:
                metadata["generation"] = 1
            body = {"apiVersion": resource.api_version, "kind": resource.kind} | body
            if dry_run:
                return body
            self._objects[resource, namespace, metadata["name"]] = body
            self.changed.notify_all()
            self._collect_if_ownerless(resource, body)
            return copy.deepcopy(body)

    def touch(self, body: Body) -> None:
        """Call after changing an object: sets a new resourceVersion and wakes all waiters."""
        body["metadata"]["resourceVersion"] = str(next(self._revision))
        self.changed.notify_all()

    def delete(self, resource: Resource, namespace: str, name: str, policy: str = "Background") -> Body:
        """Deletes according to the policy; returns a copy of the object afterwards.

        Background: gone at once, and what it owns goes after termination_seconds. Foreground: stays with a
        deletionTimestamp until what it owns is gone. Orphan: what it owns stays. A pod always takes
        termination_seconds.
        """
        with self.changed:
            body = self.live(resource, namespace, name)
            if body["metadata"]["uid"] in self._leaving:
                return copy.deepcopy(body)
            self._leaving.add(body["metadata"]["uid"])
            body["metadata"]["deletionTimestamp"] = now()
            slow = resource.kind == "Pod" or policy == "Foreground"
            if policy == "Foreground":
                body["metadata"]["finalizers"] = ["foregroundDeletion"]
            self.touch(body)
            if policy != "Orphan":
                for kind, child in list(self._owned_by(body["metadata"]["uid"])):
                    self.delete(
                        kind,
                        namespace,
                        child["metadata"]["name"],
                        "Foreground" if policy == "Foreground" else "Background",
                    )
            if slow:
                self._later(self.termination_seconds, self._remove_when_free, resource, body)
            else:
                self._remove(resource, body)
            return copy.deepcopy(body)

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Removes an object at once."""
        with self.changed:
            self._remove(resource, self.live(resource, namespace, name))

    def _remove_when_free(self, resource: Resource, body: Body) -> None:
        with self.changed:
            if any(True for _ in self._owned_by(body["metadata"]["uid"])):
                self._later(0.01, self._remove_when_free, resource, body)
            else:
                self._remove(resource, body)

    def _remove(self, resource: Resource, body: Body) -> None:
        metadata = body["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        if self._objects.get(key) is body:
            del self._objects[key]
            for watcher in self.removed:
                watcher(resource, body)
            self.changed.notify_all()

    def _owned_by(self, uid: str) -> Iterator[tuple[Resource, Body]]:
        for (resource, _, _), body in list(self._objects.items()):
            if any(owner.get("uid") == uid for owner in body["metadata"].get("ownerReferences", ())):
                yield resource, body

    def _collect_if_ownerless(self, resource: Resource, body: Body) -> None:
        """The garbage collector: an object whose owners are all unknown is deleted."""
        owners = body["metadata"].get("ownerReferences", ())
        uids = {other["metadata"]["uid"] for other in self._objects.values()}
        if owners and not any(owner.get("uid") in uids for owner in owners):
            metadata = body["metadata"]
            self._later(0.02, self._collect, resource, metadata.get("namespace", ""), metadata["name"])

    def _collect(self, resource: Resource, namespace: str, name: str) -> None:
        with self.changed:
            if self.find(resource, namespace, name) is not None:
                self.delete(resource, namespace, name)

    def _later(self, seconds: float, function: Callable[..., None], *arguments: object) -> None:
        timer = threading.Timer(seconds, function, arguments)
        timer.daemon = True
        timer.start()

    def next_suffix(self) -> str:
        return random_suffix(next(self._suffix))


def _by_name(item: tuple[tuple[Resource, str, str], Body]) -> tuple[str, str]:
    (resource, _, name), _ = item
    return resource.plural, name
