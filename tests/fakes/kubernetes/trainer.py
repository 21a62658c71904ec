"""The installed Trainer: its runtimes, and the pods that it builds from a runtime and a TrainJob."""

import copy
from typing import Any

from fakes.kubernetes.pods import CONTAINER
from fakes.kubernetes.webhook import pod_templates

Body = dict[str, Any]

IMAGE = "quay.io/example/training-hub:latest"


def runtime(name: str) -> Body:
    """A ClusterTrainingRuntime or TrainingRuntime for PyTorch, as far as a launcher may read it."""
    container = {"name": CONTAINER, "image": IMAGE, "command": ["sleep", "infinity"]}
    return {
        "metadata": {"name": name, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
            "template": {
                "spec": {
                    "replicatedJobs": [
                        {
                            "name": CONTAINER,
                            "template": {
                                "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                                "spec": {"template": {"spec": {"containers": [container]}}},
                            },
                        }
                    ]
                }
            },
        },
    }


def pod_template(runtime_body: Body, trainjob: Body) -> tuple[Body, dict[str, str], dict[str, str]]:
    """Spec, labels and annotations of the pods of the job `node`: the runtime's, the TrainJob's, its overrides'."""
    replicated = runtime_body["spec"]["template"]["spec"]["replicatedJobs"]
    job = copy.deepcopy(next(one for one in replicated if one["name"] == CONTAINER)["template"])
    template = job["spec"]["template"]
    spec = {"restartPolicy": "OnFailure"} | template["spec"]
    labels = dict(job.get("metadata", {}).get("labels", {})) | template.get("metadata", {}).get("labels", {})
    annotations: dict[str, str] = {}
    container = next(one for one in spec["containers"] if one["name"] == CONTAINER)
    trainer = trainjob["spec"].get("trainer", {})
    for field in ("image", "command", "args"):
        if trainer.get(field):
            container[field] = trainer[field]
    if "resourcesPerNode" in trainer:
        container["resources"] = trainer["resourcesPerNode"]
    container["env"] = _merged(container.get("env", []), trainer.get("env", []))
    for _, name, override in pod_templates(trainjob["spec"]):
        if name == CONTAINER:
            labels |= override.get("metadata", {}).get("labels", {})
            annotations |= override.get("metadata", {}).get("annotations", {})
            _override(spec, override.get("spec", {}))
    return spec, labels, annotations


def _override(spec: Body, settings: Body) -> None:
    for field, value in settings.items():
        if field in ("containers", "initContainers"):
            for changed in value:
                container = next(one for one in spec[field] if one["name"] == changed["name"])
                for key in ("env", "volumeMounts"):
                    if key in changed:
                        container[key] = _merged(
                            container.get(key, []), changed[key], "name" if key == "env" else "mountPath"
                        )
        elif field in ("volumes", "imagePullSecrets"):
            spec[field] = _merged(spec.get(field, []), value)
        elif field == "nodeSelector":
            spec[field] = spec.get(field, {}) | value
        else:
            spec[field] = value


def _merged(old: list[Body], new: list[Body], key: str = "name") -> list[Body]:
    """New items replace those with the same key, or are appended."""
    changed = {item[key]: item for item in new}
    kept = [changed.pop(item[key], item) for item in old]
    return copy.deepcopy(kept + list(changed.values()))
