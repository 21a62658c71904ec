"""Applies a dsl.TaskConfig that a caller gives to the launching task.

KFP fills in a component's TaskConfig parameter itself, from what is set on the task, and takes no value for it. So each
field is set on the task in KFP's own way, and comes back to the stage in the TaskConfig that it receives.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl, kubernetes

from kfp_osft.shared.reporting.errors import InputError

_PARAMETER = "kubernetes_config"


def apply_task_config(task: dsl.PipelineTask, config: dsl.TaskConfig) -> None:
    """Sets the fields of config on the task.

    Raises:
        InputError: naming a field that KFP has no way to express, as volumes of type emptyDir.
    """
    for key, value in (config.node_selector or {}).items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in config.tolerations or []:
        _only("tolerations", toleration, "key", "operator", "value", "effect", "tolerationSeconds")
        kubernetes.add_toleration(
            task,
            **{"toleration_seconds" if key == "tolerationSeconds" else key: value for key, value in toleration.items()},
        )
    if config.affinity:
        _only("affinity", config.affinity, "nodeAffinity")
        kubernetes.add_node_affinity_json(task, config.affinity["nodeAffinity"])
    for variable in config.env or []:
        _set_env(task, variable)
    _mount(task, config.volumes or [], config.volume_mounts or [])
    _set_resources(task, config.resources or {})


def _set_env(task: dsl.PipelineTask, variable: Mapping[str, Any]) -> None:
    name = variable["name"]
    _only("env", variable, "name", "value", "valueFrom")
    if "valueFrom" not in variable:
        task.set_env_variable(name, variable.get("value", ""))
        return
    ((kind, reference),) = variable["valueFrom"].items()
    place = f"env[{name}].valueFrom"
    if kind == "fieldRef":
        kubernetes.use_field_path_as_env(task, name, reference["fieldPath"])
        return
    use: dict[str, Callable] = {
        "secretKeyRef": kubernetes.use_secret_as_env,
        "configMapKeyRef": kubernetes.use_config_map_as_env,
    }
    _only(place, {kind: reference}, *use, "fieldRef")
    use[kind](task, reference["name"], {reference["key"]: name}, optional=reference.get("optional", False))


def _mount(task: dsl.PipelineTask, volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]) -> None:
    by_name = {volume["name"]: volume for volume in volumes}
    mounted = {mount["name"] for mount in mounts}
    for name in by_name.keys() - mounted:
        raise InputError(f"{_PARAMETER}: volumes: '{name}' has no volumeMount")
    for name in mounted - by_name.keys():
        raise InputError(f"{_PARAMETER}: volume_mounts: there is no volume '{name}'")
    for mount in mounts:
        volume = {key: value for key, value in by_name[mount["name"]].items() if key != "name"}
        _only(f"volumes[{mount['name']}]", volume, "persistentVolumeClaim", "secret", "configMap")
        ((kind, source),) = volume.items()
        path = mount["mountPath"]
        if kind == "persistentVolumeClaim":
            _only(f"volume_mounts[{mount['name']}]", mount, "name", "mountPath", "subPath")
            kubernetes.mount_pvc(task, source["claimName"], path, mount.get("subPath", ""))
            continue
        _only(f"volume_mounts[{mount['name']}]", mount, "name", "mountPath")
        use, key = (
            (kubernetes.use_secret_as_volume, "secretName")
            if kind == "secret"
            else (kubernetes.use_config_map_as_volume, "name")
        )
        _only(f"volumes[{mount['name']}].{kind}", source, key, "optional")
        use(task, source[key], path, optional=source.get("optional", False))


def _set_resources(task: dsl.PipelineTask, resources: Mapping[str, Mapping[str, Any]]) -> None:
    _only("resources", resources, "requests", "limits")
    requests, limits = resources.get("requests", {}), dict(resources.get("limits", {}))
    _only("resources.requests", requests, "cpu", "memory", *limits)
    setters = {
        ("cpu", "requests"): task.set_cpu_request,
        ("cpu", "limits"): task.set_cpu_limit,
        ("memory", "requests"): task.set_memory_request,
        ("memory", "limits"): task.set_memory_limit,
    }
    for (resource, kind), set_value in setters.items():
        amounts = requests if kind == "requests" else limits
        if resource in amounts:
            set_value(str(amounts[resource]))
    accelerators = {name: amount for name, amount in limits.items() if name not in ("cpu", "memory")}
    if len(accelerators) > 1:
        raise InputError(
            f"{_PARAMETER}: resources.limits: {', '.join(accelerators)}: KFP takes one kind of accelerator"
        )
    for name, amount in accelerators.items():
        task.set_accelerator_type(name).set_accelerator_limit(str(amount))


def _only(place: str, found: Mapping[str, Any], *allowed: str) -> None:
    others = [key for key in found if key not in allowed]
    if others:
        raise InputError(
            f"{_PARAMETER}: {place}: KFP cannot express {', '.join(others)}; it takes {', '.join(allowed)}"
        )
