"""The verbs and resources that a token may use.

Rules have the shape that they have in a Role or ClusterRole, so that a manifest's rules can be given to the server.
"""

from collections.abc import Sequence
from typing import Any

from fakes.kubernetes.resources import TRAINER_GROUP, Target
from fakes.kubernetes.status import ApiError

Rule = dict[str, list[str]]


def rule(group: str, resource: str, *verbs: str) -> Rule:
    """One rule: rule("", "pods", "get", "list"). A subresource is written pods/log."""
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


#: The rules of the launcher's Role.
ROLE: tuple[Rule, ...] = (
    rule(TRAINER_GROUP, "trainjobs", "create", "get", "delete"),
    rule("", "pods", "get", "list"),
    rule("", "pods/log", "get"),
    rule("", "events", "list"),
    rule("", "secrets", "create"),
)

#: Additional rules, to list the runtimes.
SEES_RUNTIMES: tuple[Rule, ...] = (
    rule(TRAINER_GROUP, "trainingruntimes", "get", "list"),
    rule(TRAINER_GROUP, "clustertrainingruntimes", "get", "list"),
)


#: Additional rules, to report why Kueue does not admit a TrainJob.
SEES_WORKLOADS: tuple[Rule, ...] = (rule("kueue.x-k8s.io", "workloads", "list"),)


def without(rules: Sequence[Rule], resource: str, verb: str | None = None) -> list[Rule]:
    """The rules without a resource, or without one verb on it: without(ROLE, "trainjobs", "delete")."""
    left = []
    for one in rules:
        kept = {**one, "resources": [name for name in one["resources"] if name != resource]}
        dropped = {
            **one,
            "resources": [name for name in one["resources"] if name == resource],
            "verbs": [name for name in one["verbs"] if name != verb] if verb else [],
        }
        left += [part for part in (kept, dropped) if part["resources"] and part["verbs"]]
    return left


def allowed(rules: Sequence[Rule], verb: str, group: str, resource: str) -> bool:
    """Whether a rule grants it; "*" matches everything."""

    def has(granted: list[str], wanted: str) -> bool:
        return wanted in granted or "*" in granted

    return any(
        has(one["apiGroups"], group) and has(one["resources"], resource) and has(one["verbs"], verb) for one in rules
    )


def check(rules: Sequence[Rule], user: str, own_namespace: str, verb: str, target: Target) -> None:
    """Raises ApiError 403 in the words of the real authorizer. A Role grants nothing outside its namespace."""
    resource = target.resource
    asked = f"{resource.plural}/{target.subresource}" if target.subresource else resource.plural
    in_reach = not resource.namespaced or target.namespace == own_namespace
    if in_reach and allowed(rules, verb, resource.group, asked):
        return
    named = f'{resource.qualified} "{target.name}"' if target.name else resource.qualified
    where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    details: dict[str, Any] = {"group": resource.group, "kind": resource.plural} | (
        {"name": target.name} if target.name else {}
    )
    raise ApiError(
        403,
        f'{named} is forbidden: User "{user}" cannot {verb} resource "{asked}" in API group "{resource.group}" {where}',
        details=details,
    )


def check_owner_references(rules: Sequence[Rule], qualified: str, name: str, owners: list[dict[str, Any]]) -> None:
    """OwnerReferencesPermissionEnforcement, which OpenShift enables.

    blockOwnerDeletion takes the right to update the owner's finalizers.
    """
    plurals = {"TrainJob": (TRAINER_GROUP, "trainjobs"), "Pod": ("", "pods")}
    for owner in owners:
        group, plural = plurals.get(owner.get("kind", ""), ("", "unknown"))
        if owner.get("blockOwnerDeletion") and not allowed(rules, "update", group, f"{plural}/finalizers"):
            raise ApiError(
                403,
                f'{qualified} "{name}" is forbidden: cannot set blockOwnerDeletion if an '
                "ownerReference refers to a resource you can't set finalizers on: , <nil>",
            )
