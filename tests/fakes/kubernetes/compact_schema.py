"""The fields of a TrainJob that a launcher writes or reads, by the generation of the Trainer.

Written by hand from the API's reference, for tests that run where the CRDs' files are not at hand.
"""

from typing import Any

Schema = dict[str, Any]

_QUANTITY = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "x-kubernetes-int-or-string": True,
    "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)"
    r"|(\.[0-9]+))))?$",
}


def compact_schema(generation: str) -> Schema:
    """generation: 2.1, 2.2 or 2.3. Limits on sizes came with 2.2."""
    return _object(
        {
            "apiVersion": _text(),
            "kind": _text(),
            "metadata": {"type": "object"},
            "spec": _spec(generation),
            "status": _status(),
        }
    ) | {
        "x-kubernetes-validations": [
            {
                "message": "metadata.name must match RFC 1035 DNS label format",
                "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            },
            {"message": "metadata.name must be no more than 63 characters", "rule": "size(self.metadata.name) <= 63"},
        ]
    }


def _spec(generation: str) -> Schema:
    old = generation == "2.1"

    def limited(size: int) -> Schema:
        return {} if old else {"maxLength": size}

    fields = {
        "managedBy": _text()
        | {"default": "trainer.kubeflow.org/trainjob-controller"}
        | limited(253)
        | {
            "x-kubernetes-validations": [
                {
                    "message": "ManagedBy must be trainer.kubeflow.org/trainjob-controller or "
                    "kueue.x-k8s.io/multikueue if set",
                    "rule": "self in ['trainer.kubeflow.org/trainjob-controller', 'kueue.x-k8s.io/multikueue']",
                }
            ]
        },
        "runtimeRef": _object(
            {
                "apiGroup": _text() | {"default": "trainer.kubeflow.org"} | limited(253),
                "kind": _text() | {"default": "ClusterTrainingRuntime"} | limited(253),
                "name": _text() | {"minLength": 1} | limited(253),
            },
            required=["name"],
        ),
        "suspend": {"type": "boolean", "default": False},
        "trainer": _trainer(generation),
    }
    if old:
        fields |= {
            "labels": _strings(),
            "annotations": _strings(),
            "podTemplateOverrides": _list(
                _object(
                    {
                        "metadata": _metadata(),
                        "spec": _pod_spec(generation),
                        "targetJobs": _list(_object({"name": _text() | {"minLength": 1}}, required=["name"])),
                    },
                    required=["targetJobs"],
                )
            ),
        }
    else:
        job = _object(
            {
                "metadata": _metadata(),
                "spec": _object({"template": _object({"metadata": _metadata(), "spec": _pod_spec(generation)})}),
            }
        )
        replicated = _object({"name": _text() | {"minLength": 1, "maxLength": 253}, "template": job}, required=["name"])
        fields |= {
            "activeDeadlineSeconds": {"type": "integer", "format": "int64", "minimum": 1},
            "runtimePatches": _map_list(
                _object(
                    {
                        "manager": _text() | {"minLength": 1, "maxLength": 253},
                        "time": _text() | {"format": "date-time"},
                        "trainingRuntimeSpec": _object(
                            {
                                "template": _object(
                                    {
                                        "metadata": _metadata(),
                                        "spec": _object({"replicatedJobs": _map_list(replicated, "name", 100)}),
                                    }
                                )
                            }
                        ),
                    },
                    required=["manager"],
                ),
                "manager",
                16,
            ),
        }
    return _object(fields, required=["runtimeRef"])


def _trainer(generation: str) -> Schema:
    old = generation == "2.1"
    # The length limit of an item of command differs between them.
    item = _text() | ({} if old else {"maxLength": 65536 if generation == "2.2" else 1048576})
    processes = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    return _object(
        {
            "args": _list(item, None if old else 128),
            "command": _list(item, None if old else 128),
            "env": _map_list(_env(), "name", None if old else 128),
            "image": _text() | ({} if old else {"maxLength": 500}),
            "numNodes": {"type": "integer", "format": "int32"},
            "numProcPerNode": processes if old else {"type": "integer", "format": "int32"},
            "resourcesPerNode": _object(
                {
                    "claims": _map_list(_object({"name": _text(), "request": _text()}, required=["name"]), "name"),
                    "limits": {"type": "object", "additionalProperties": _QUANTITY},
                    "requests": {"type": "object", "additionalProperties": _QUANTITY},
                }
            ),
        }
    )


def _pod_spec(generation: str) -> Schema:
    many = None if generation == "2.1" else 128
    container = _object(
        {
            "name": _text() | {"minLength": 1} | ({} if generation == "2.1" else {"maxLength": 253}),
            "env": _map_list(_env(), "name", many),
            "volumeMounts": _map_list(
                _object(
                    {
                        "mountPath": _text(),
                        "name": _text(),
                        "readOnly": {"type": "boolean"},
                        "subPath": _text(),
                        "subPathExpr": _text(),
                        "mountPropagation": _text(),
                        "recursiveReadOnly": _text(),
                    },
                    required=["mountPath", "name"],
                ),
                "name",
                many,
            ),
        },
        required=["name"],
    )
    several = None if generation == "2.1" else 64
    return _object(
        {
            # Kubernetes' own types, which neither the server nor a launcher inspects.
            "affinity": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "containers": _map_list(container, "name", several),
            "initContainers": _map_list(container, "name", several),
            "imagePullSecrets": _map_list(_object({"name": _text() | {"default": ""}}), "name", several),
            "nodeSelector": _strings(),
            "serviceAccountName": _text() | ({} if generation == "2.1" else {"maxLength": 253}),
            "tolerations": _list(
                _object(
                    {
                        "effect": _text(),
                        "key": _text(),
                        "operator": _text(),
                        "value": _text(),
                        "tolerationSeconds": {"type": "integer", "format": "int64"},
                    }
                ),
                many,
            ),
            "volumes": _map_list(
                {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": True,
                    "required": ["name"],
                    "properties": {
                        "name": _text(),
                        "persistentVolumeClaim": _object(
                            {"claimName": _text(), "readOnly": {"type": "boolean"}}, required=["claimName"]
                        ),
                    },
                },
                "name",
                many,
            ),
        }
    )


def _env() -> Schema:
    key = {"key": _text(), "name": _text() | {"default": ""}, "optional": {"type": "boolean"}}
    return _object(
        {
            "name": _text(),
            "value": _text(),
            "valueFrom": _object(
                {
                    "configMapKeyRef": _object(key, required=["key"]),
                    "secretKeyRef": _object(key, required=["key"]),
                    "fieldRef": _object({"apiVersion": _text(), "fieldPath": _text()}, required=["fieldPath"]),
                    "resourceFieldRef": _object(
                        {"containerName": _text(), "divisor": _QUANTITY, "resource": _text()}, required=["resource"]
                    ),
                }
            ),
        },
        required=["name"],
    )


def _status() -> Schema:
    count = {"type": "integer", "format": "int32", "minimum": 0}
    counts = dict.fromkeys(("active", "failed", "ready", "succeeded", "suspended"), count)
    condition = {
        "lastTransitionTime": _text() | {"format": "date-time"},
        "message": _text() | {"maxLength": 32768},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "reason": _text() | {"minLength": 1, "maxLength": 1024},
        "status": _text() | {"enum": ["True", "False", "Unknown"]},
        "type": _text() | {"maxLength": 316},
    }
    return _object(
        {
            "conditions": _map_list(
                _object(condition, required=["lastTransitionTime", "message", "reason", "status", "type"]), "type"
            ),
            "jobsStatus": _map_list(_object({"name": _text()} | counts, required=["name", *counts]), "name"),
        }
    )


def _object(fields: Schema, required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": fields} | ({"required": sorted(required)} if required else {})


def _text() -> Schema:
    return {"type": "string"}


def _strings() -> Schema:
    return {"type": "object", "additionalProperties": _text()}


def _metadata() -> Schema:
    return _object(
        {
            "annotations": _strings(),
            "finalizers": {"type": "array", "items": _text()},
            "labels": _strings(),
            "name": _text(),
            "namespace": _text(),
        }
    )


def _list(items: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": items, "x-kubernetes-list-type": "atomic"} | (
        {} if most is None else {"maxItems": most}
    )


def _map_list(items: Schema, key: str, most: int | None = None) -> Schema:
    """A list whose items differ in `key`."""
    return _list(items, most) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
