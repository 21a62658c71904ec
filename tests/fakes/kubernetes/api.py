"""The API: computes the response to a complete request."""

import base64
import copy
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fakes.kubernetes import rbac, schema, validation, webhook
from fakes.kubernetes.pod_log import LogOptions
from fakes.kubernetes.recorded import Request
from fakes.kubernetes.resources import (
    CLUSTER_TRAINING_RUNTIMES,
    PODS,
    RESOURCES,
    SECRETS,
    TRAINER_GROUP,
    TRAINER_RESOURCES,
    TRAINING_RUNTIMES,
    TRAINJOBS,
    Resource,
    Target,
    target_of,
)
from fakes.kubernetes.selectors import selected_by
from fakes.kubernetes.status import ApiError, PageNotFound, invalid
from fakes.kubernetes.store import Body

if TYPE_CHECKING:
    from fakes.kubernetes.cluster import Cluster

_GROUP_PATH = f"apis/{TRAINER_GROUP}/v1alpha1"
_METHODS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass
class Answer:
    """A status, and either a JSON body or chunks of text that arrive over time."""

    status: int
    body: Any = None
    chunks: Iterator[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)


def describe(request: Request) -> Target | None:
    """Fills in the request's verb, resource and so on; returns its target."""
    target = target_of(request.path)
    if target is None:
        return None
    if request.method == "GET":
        watch = request.query.get("watch") in ("true", "1")
        request.verb = "get" if target.name else "watch" if watch else "list"
    elif request.method == "DELETE":
        request.verb = "delete" if target.name else "deletecollection"
    else:
        request.verb = _METHODS.get(request.method, request.method.lower())
    request.resource, request.subresource = target.resource.plural, target.subresource
    request.namespace, request.name = target.namespace, target.name
    return target


def answer(cluster: "Cluster", request: Request, target: Target | None) -> Answer:
    """Raises ApiError, PageNotFound."""
    _if_ready(cluster, request, target)
    if target is None:
        return Answer(200, _discovery(cluster, request))
    resource = target.resource
    if resource in TRAINER_RESOURCES and cluster.trainer is None:
        raise PageNotFound
    rbac.check(cluster.rules, cluster.user, cluster.namespace, request.verb, target)
    if resource == PODS and target.subresource == "log" and request.verb == "get":
        return _log(cluster, request)
    if target.subresource:
        raise PageNotFound
    if request.verb == "get":
        return Answer(200, cluster.store.get(resource, target.namespace, target.name))
    if request.verb == "list":
        return Answer(200, _list(cluster, resource, request))
    if request.verb == "create":
        return Answer(201, _create(cluster, resource, request))
    if request.verb == "delete":
        return Answer(200, _delete(cluster, resource, request))
    raise ApiError(405, "the server does not allow this method on the requested resource")


def _if_ready(cluster: "Cluster", request: Request, target: Target | None) -> None:
    """A server that has just started has not loaded its RBAC rules yet, and then not its CRDs."""
    age = time.monotonic() - cluster.started
    if age < cluster.dirty / 2:
        asked = f'resource "{target.resource.plural}"' if target else f'path "{request.path}"'
        named = f"{target.resource.qualified} is forbidden" if target else "forbidden"
        verb = request.verb or "get"
        raise ApiError(403, f'{named}: User "{cluster.user}" cannot {verb} {asked}: RBAC: clusterrole not found')
    if age < cluster.dirty and TRAINER_GROUP in request.path:
        raise PageNotFound


def _list(cluster: "Cluster", resource: Resource, request: Request) -> Body:
    items = cluster.store.list(resource, request.namespace, selected_by(resource, request.query))
    items = [
        {name: part for name, part in item.items() if resource.group or name not in ("kind", "apiVersion")}
        for item in items
    ]
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": {"resourceVersion": "1"},
        "items": items,
    }


def _create(cluster: "Cluster", resource: Resource, request: Request) -> Body:
    body = copy.deepcopy(request.body)
    if not isinstance(body, dict):
        raise ApiError(400, "the request has no body")
    if (body.get("apiVersion", resource.api_version), body.get("kind", resource.kind)) != (
        resource.api_version,
        resource.kind,
    ):
        raise ApiError(
            400,
            f"the API version in the data ({body.get('apiVersion')}) does not match the expected API "
            f"version ({resource.api_version})",
        )
    metadata = body.setdefault("metadata", {})
    if metadata.get("namespace", request.namespace) != request.namespace:
        raise ApiError(400, "the namespace of the provided object does not match the namespace sent on the request")
    if not metadata.get("name") and not metadata.get("generateName"):
        raise invalid(
            resource.kind,
            resource.group,
            "",
            [
                {
                    "reason": "FieldValueRequired",
                    "field": "metadata.name",
                    "message": "Required value: name or generateName is required",
                }
            ],
        )
    validation.check_metadata(resource, body)
    dry_run = request.query.get("dryRun") == "All"
    rbac.check_owner_references(
        cluster.rules, resource.qualified, metadata.get("name", ""), metadata.get("ownerReferences", [])
    )
    if resource == TRAINJOBS:
        _admit(cluster, body, request.query.get("fieldValidation") or "Warn")
    if resource == SECRETS:
        body.setdefault("type", "Opaque")
        text = body.pop("stringData", {})
        body["data"] = body.get("data", {}) | {
            key: base64.b64encode(value.encode()).decode() for key, value in text.items()
        }
        validation.check_secret(body)
    with cluster.store.changed:
        created = cluster.store.create(resource, request.namespace, body, dry_run=dry_run)
        if resource == TRAINJOBS and not dry_run:
            cluster.start_life(created)
    return created


def _admit(cluster: "Cluster", body: Body, field_validation: str) -> None:
    """Decoding, pruning, defaults, validation and webhooks, in the server's order."""
    trainjob = schema.trainjob_schema(cluster.trainer or "")
    unknown = schema.prune(body, trainjob)
    if unknown and field_validation == "Strict":
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise ApiError(
            400, f'TrainJob in version "v1alpha1" cannot be handled as a TrainJob: strict decoding error: {listed}'
        )
    # With a status subresource, the status in a create request is dropped.
    body.pop("status", None)
    schema.fill_in(body, trainjob)
    causes = schema.violations(body, trainjob)
    if causes:
        raise invalid("TrainJob", TRAINER_GROUP, body["metadata"].get("name", ""), causes)
    webhook.default(body, suspend=cluster.queued)
    names = [
        {one["metadata"]["name"] for one in cluster.store.list(resource, namespace)}
        for resource, namespace in ((CLUSTER_TRAINING_RUNTIMES, ""), (TRAINING_RUNTIMES, cluster.namespace))
    ]
    webhook.check(body, *names)


def _delete(cluster: "Cluster", resource: Resource, request: Request) -> Body:
    options = request.body if isinstance(request.body, dict) else {}
    policy = request.query.get("propagationPolicy") or options.get("propagationPolicy") or "Background"
    validation.check_propagation(policy)
    with cluster.store.changed:
        body = cluster.store.get(resource, request.namespace, request.name)
        expected = (options.get("preconditions") or {}).get("uid")
        if expected and expected != body["metadata"]["uid"]:
            raise ApiError(
                409,
                f'Operation cannot be fulfilled on {resource.qualified} "{request.name}": Precondition '
                f"failed: UID in precondition: {expected}, UID in object meta: "
                f"{body['metadata']['uid']}",
            )
        deleted = cluster.store.delete(resource, request.namespace, request.name, policy)
        if resource == TRAINJOBS and policy == "Foreground":
            cluster.make_anew(deleted)
        if cluster.store.find(resource, request.namespace, request.name) is not None:
            return deleted
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": request.name,
            "group": resource.group,
            "kind": resource.plural,
            "uid": deleted["metadata"]["uid"],
        },
    }


def _log(cluster: "Cluster", request: Request) -> Answer:
    options = LogOptions.of(request.query, request.name)
    cluster.store.get(PODS, request.namespace, request.name)
    pod = cluster.pod(request.name)
    log = pod.log_of(container=options.container, previous=options.previous) if pod else None
    return Answer(200, chunks=iter(()) if log is None else log.read(options))


def _discovery(cluster: "Cluster", request: Request) -> Body:
    path = request.path.strip("/")
    installed = cluster.trainer is not None
    version = {"groupVersion": f"{TRAINER_GROUP}/v1alpha1", "version": "v1alpha1"}
    group = {"name": TRAINER_GROUP, "versions": [version], "preferredVersion": version}
    pages: dict[str, Any] = {
        "version": lambda: {"major": "1", "minor": "33", "gitVersion": "v1.33.4"},
        "api": lambda: {"kind": "APIVersions", "versions": ["v1"]},
        "apis": lambda: {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group] if installed else []},
        "api/v1": lambda: _resource_list("", "v1"),
        "openapi/v3": lambda: _openapi_index(cluster),
    }
    if installed:
        pages |= {
            f"apis/{TRAINER_GROUP}": lambda: {"kind": "APIGroup", "apiVersion": "v1", **group},
            _GROUP_PATH: lambda: _resource_list(TRAINER_GROUP, "v1alpha1"),
            f"openapi/v3/{_GROUP_PATH}": lambda: openapi(cluster.trainer or ""),
        }
    if path not in pages or request.method != "GET":
        raise PageNotFound
    return pages[path]()


def _resource_list(group: str, version: str) -> Body:
    resources = [
        {
            "name": one.plural,
            "singularName": one.kind.lower(),
            "namespaced": one.namespaced,
            "kind": one.kind,
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        }
        for one in RESOURCES
        if (one.group, one.version) == (group, version)
    ]
    if not group:
        resources.append({"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]})
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": resources,
    }


def _openapi_index(cluster: "Cluster") -> Body:
    paths = {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=0"}}
    if cluster.trainer is not None:
        digest = hashlib.sha512(json.dumps(openapi(cluster.trainer)).encode()).hexdigest().upper()
        paths[_GROUP_PATH] = {"serverRelativeURL": f"/openapi/v3/{_GROUP_PATH}?hash={digest}"}
    return {"paths": paths}


def openapi(generation: str) -> Body:
    """OpenAPI v3 of the Trainer's group, with schema names as for CRDs: the group reversed."""
    prefix = ".".join(reversed(TRAINER_GROUP.split("."))) + ".v1alpha1"
    metadata = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    trainjob = copy.deepcopy(schema.trainjob_schema(generation))
    trainjob["properties"]["metadata"] = {"description": "Standard object's metadata.", "allOf": [{"$ref": metadata}]}
    trainjob["x-kubernetes-group-version-kind"] = [
        {"group": TRAINER_GROUP, "kind": TRAINJOBS.kind, "version": TRAINJOBS.version}
    ]
    path = f"/{_GROUP_PATH}/namespaces/{{namespace}}/trainjobs"
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
        "paths": {path: {}, path + "/{name}": {}},
        "components": {
            "schemas": {
                "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object"},
                f"{prefix}.TrainJob": trainjob,
            }
        },
    }
