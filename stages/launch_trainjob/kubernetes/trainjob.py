"""The TrainJob (trainer.kubeflow.org/v1alpha1) as a dict, for both generations of servers in use."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.files.manifests import fingerprint
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages.launch_trainjob.kubernetes.pods import TrainingPods, unexpanded
from kfp_osft.stages.launch_trainjob.kubernetes.progress_annotations import PROGRESS_PREFIX, progress_annotations
from kfp_osft.stages.launch_trainjob.train_text import train_text

TRAINER_GROUP, TRAINER_VERSION = "trainer.kubeflow.org", "v1alpha1"
#: The field of a TrainJob that patches its pods: Trainer 2.2 and later, and 2.1 (RHOAI 3.2 to 3.5).
RUNTIME_PATCHES, POD_TEMPLATE_OVERRIDES = "runtimePatches", "podTemplateOverrides"
#: Name of both the container and the replicated job that train.
NODE = "node"
#: Annotations of our TrainJobs: the training's fingerprint, and the attempt that created it.
TRAINING_ANNOTATION = "kfp-osft/training"
CREATION_ANNOTATION = "kfp-osft/creation"
MANAGED_BY = {"app.kubernetes.io/managed-by": "kfp-osft"}

_LONGEST_NAME = 48
_HASH_CHARACTERS = 10
_FIELD_MANAGER = "kfp-osft/launch"
# Kueue reads its labels (queue, priority) on the TrainJob.
_KUEUE = "kueue.x-k8s.io/"
# Limit of Trainer 2.2 and later.
_MOST_VARIABLES = 128


def pods_field(openapi: Mapping[str, Any] | None) -> str:
    """Which of the two fields the TrainJob of this server has.

    Args:
        openapi: the server's OpenAPI document of the Trainer's API, None if it has none.

    Raises:
        InputError: no Trainer, or one of an unknown generation. With the wrong field the server would drop the volumes
            and train without them.
    """
    if openapi is None:
        raise InputError(
            f"there is no Kubeflow Trainer on this cluster: it does not serve {TRAINER_GROUP}/"
            f"{TRAINER_VERSION}; ask for it to be installed (Red Hat OpenShift AI: the component trainer)"
        )
    for schema in openapi.get("components", {}).get("schemas", {}).values():
        if any(kind.get("kind") == "TrainJob" for kind in schema.get("x-kubernetes-group-version-kind", [])):
            fields = schema.get("properties", {}).get("spec", {}).get("properties", {})
            for field in (RUNTIME_PATCHES, POD_TEMPLATE_OVERRIDES):
                if field in fields:
                    return field
            raise InputError(
                f"the cluster's TrainJob has neither {RUNTIME_PATCHES} (Trainer 2.2 and later) nor "
                f"{POD_TEMPLATE_OVERRIDES} (2.1); it has {', '.join(sorted(fields)) or 'no field'}: this "
                "generation of the Trainer is not supported"
            )
    raise InputError(f"the cluster's API document of {TRAINER_GROUP}/{TRAINER_VERSION} has no TrainJob")


def trainjob_spec(config: TrainingConfig, pods: TrainingPods, field: str, runtime_kind: str | None) -> dict[str, Any]:
    """The spec of the TrainJob.

    Args:
        field: RUNTIME_PATCHES or POD_TEMPLATE_OVERRIDES.
        runtime_kind: TrainingRuntime for one in the namespace; None for the server's default, ClusterTrainingRuntime.

    Raises:
        InputError: more environment variables than the server accepts.
    """
    variables = len(pods.env) + len(pods.secret_env)
    if field == RUNTIME_PATCHES and variables > _MOST_VARIABLES:
        raise InputError(
            f"the training pods would have {variables} environment variables (training_envs, the task's and ours); "
            f"this Trainer accepts at most {_MOST_VARIABLES}"
        )
    node = {"name": NODE, "volumeMounts": pods.volume_mounts}
    pod_spec = {
        "volumes": pods.volumes,
        "nodeSelector": pods.node_selector,
        "tolerations": pods.tolerations,
        "affinity": pods.affinity,
        "containers": [node] if pods.volume_mounts else [],
    }
    labels = {name: value for name, value in config.trainjob["labels"].items() if not name.startswith(_KUEUE)}
    # Explicit empty values break resuming by Kueue.
    annotations = {
        name: value for name, value in config.trainjob["annotations"].items() if not name.startswith(PROGRESS_PREFIX)
    }
    metadata = _without_empty({"labels": labels, "annotations": annotations})
    template = _without_empty({"metadata": metadata, "spec": _without_empty(pod_spec)})
    runtime = {"name": config.trainjob["runtime"]}
    if runtime_kind:
        runtime |= {"apiGroup": TRAINER_GROUP, "kind": runtime_kind}
    return {
        "runtimeRef": runtime,
        "trainer": {
            "numNodes": config.trainjob["num_workers"],
            "numProcPerNode": pods.processes,
            # Not torchrun: mini-trainer starts its own, and each worker of torchrun would start a training.
            "command": ["python", "-c", unexpanded(train_text())],
            "env": pods.env,
            "resourcesPerNode": {"requests": pods.requests, "limits": pods.limits},
        },
        **_pods(field, template),
    }


def trainjob(
    name: str,
    spec: Mapping[str, Any],
    config: TrainingConfig,
    secret: Mapping[str, list[str]],
    owner: Mapping[str, Any] | None,
    creation: str,
) -> dict[str, Any]:
    """The whole TrainJob.

    Args:
        name: see trainjob_name.
        spec: see trainjob_spec.
        secret: name of a Secret -> the variables taken from it; empty if there is none.
        owner: an ownerReference, or None.
        creation: unique to this attempt to create it.
    """
    env = [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret_name, "key": variable}}}
        for secret_name, variables in secret.items()
        for variable in variables
    ]
    kueue = {key: value for key, value in config.trainjob["labels"].items() if key.startswith(_KUEUE)}
    metadata = {
        "name": name,
        "labels": {**MANAGED_BY, **kueue},
        "annotations": {
            **progress_annotations(config.trainjob),
            TRAINING_ANNOTATION: config.fingerprint,
            CREATION_ANNOTATION: creation,
        },
    }
    if owner:
        metadata["ownerReferences"] = [dict(owner)]
    return {
        "apiVersion": f"{TRAINER_GROUP}/{TRAINER_VERSION}",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {**spec, "trainer": {**spec["trainer"], "env": [*spec["trainer"]["env"], *env]}},
    }


def trainjob_name(run_name: str, run_id: str, task_name: str, spec: Mapping[str, Any]) -> str:
    """A name of at most 48 characters that a retry of the same task in the same run finds again.

    It begins with the run's name, which need not be unique, and ends in a hash of run, task and spec, so that the
    iterations of a loop, and runs without a name, do not adopt each other's TrainJobs.
    """
    hashed = f"{run_name}\n{run_id}\n{task_name}\n{fingerprint(spec)}"
    digest = hashlib.sha256(hashed.encode()).hexdigest()[:_HASH_CHARACTERS]
    words = re.sub(r"[^a-z0-9]+", "-", run_name.lower())[: _LONGEST_NAME - _HASH_CHARACTERS - 1].strip("-")
    # Names of JobSets and of Services begin with a letter (RFC 1035).
    if not words or not words[0].isalpha():
        words = f"osft-{words}".strip("-")[: _LONGEST_NAME - _HASH_CHARACTERS - 1].strip("-")
    return f"{words}-{digest}"


def dropped_fields(sent: Any, stored: Any, place: str = "spec") -> list[str]:
    """Paths of the fields that the server did not keep: it prunes those that it does not know."""
    if isinstance(sent, Mapping):
        if not isinstance(stored, Mapping):
            return [place]
        return [
            path
            for name, value in sent.items()
            for path in (
                dropped_fields(value, stored[name], f"{place}.{name}") if name in stored else [f"{place}.{name}"]
            )
        ]
    if isinstance(sent, list):
        if not isinstance(stored, list) or len(stored) < len(sent):
            return [place]
        return [
            path
            for index, value in enumerate(sent)
            for path in dropped_fields(value, stored[index], f"{place}[{index}]")
        ]
    return []


def _pods(field: str, template: Mapping[str, Any]) -> dict[str, Any]:
    if not template:
        return {}
    if field == POD_TEMPLATE_OVERRIDES:
        return {field: [{"targetJobs": [{"name": NODE}], **template}]}
    job_template = {"spec": {"template": template}}
    return {
        field: [
            {
                "manager": _FIELD_MANAGER,
                "trainingRuntimeSpec": {
                    "template": {"spec": {"replicatedJobs": [{"name": NODE, "template": job_template}]}}
                },
            }
        ]
    }


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
