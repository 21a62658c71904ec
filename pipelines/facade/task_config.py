"""Applies a dsl.TaskConfig that a caller gives to the launching task.

KFP fills in a component's TaskConfig parameter itself, from what is set on the task, and takes no value for it. So each
field is set on the task with KFP's own functions, and reaches the stage in the TaskConfig that it receives.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl, kubernetes

from kfp_osft.shared.parameters.environment import is_runtimes_own
from kfp_osft.shared.parameters.kubernetes_syntax import is_env_name, is_quantity
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.component import make_way

_PARAMETER = "kubernetes_config"
_NOT_ACCELERATORS = ("ephemeral-storage", "storage", "hugepages-")


def apply_task_config(task: dsl.PipelineTask, config: dsl.TaskConfig) -> None:
    """Sets the fields of config on the task.

    Args:
        config: its fields as in Kubernetes' JSON, or as objects of the Kubernetes client (V1EnvVar, ...).

    Raises:
        InputError: a field that is malformed, that the training runtime sets itself, or that KFP cannot express, such
            as a volume of type emptyDir.
    """
    if not isinstance(config, dsl.TaskConfig):
        raise InputError(f"{_PARAMETER} is a {type(config).__name__}; allowed: a dsl.TaskConfig")
    fields = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    for key, value in _map("node_selector", fields["node_selector"]).items():
        kubernetes.add_node_selector(task, key, _text(f"node_selector[{key}]", value))
    for place, toleration in _items("tolerations", fields["tolerations"]):
        _set_toleration(task, place, toleration)
    if affinity := _map("affinity", fields["affinity"]):
        _only("affinity", affinity, "nodeAffinity")
        kubernetes.add_node_affinity_json(task, _map("affinity.nodeAffinity", affinity["nodeAffinity"]))
    for place, variable in _items("env", fields["env"]):
        _set_env(task, place, variable)
    _mount(task, _items("volumes", fields["volumes"]), _items("volume_mounts", fields["volume_mounts"]))
    _set_resources(task, _map("resources", fields["resources"]))


def _set_toleration(task: dsl.PipelineTask, place: str, toleration: Mapping[str, Any]) -> None:
    _only(place, toleration, "key", "operator", "value", "effect", "tolerationSeconds")
    given = {name: _text(f"{place}.{name}", toleration[name]) for name in toleration if name != "tolerationSeconds"}
    seconds = toleration.get("tolerationSeconds")
    if seconds is not None and type(seconds) is not int:
        raise InputError(f"{_PARAMETER}: {place}.tolerationSeconds={seconds!r} is not allowed; allowed: an integer")
    arguments: dict[str, Any] = {**given, **({} if seconds is None else {"toleration_seconds": seconds})}
    kubernetes.add_toleration(task, **arguments)


def _set_env(task: dsl.PipelineTask, place: str, variable: Mapping[str, Any]) -> None:
    _only(place, variable, "name", "value", "valueFrom")
    name = _text(f"{place}.name", variable.get("name"))
    place = f"env[{name}]"
    if not is_env_name(name):
        raise InputError(
            f"{_PARAMETER}: {place} is not an environment variable's name; allowed: letters, digits and '_', not "
            "starting with a digit"
        )
    if is_runtimes_own(name):
        raise InputError(f"{_PARAMETER}: {place} is set by the training runtime and cannot be given")
    if "valueFrom" not in variable:
        task.set_env_variable(name, _text(f"{place}.value", variable.get("value", ""), allow_empty=True))
        return
    if "value" in variable:
        raise InputError(f"{_PARAMETER}: {place} has both value and valueFrom; give one of them")
    sources = _map(f"{place}.valueFrom", variable["valueFrom"])
    use: dict[str, Callable] = {
        "secretKeyRef": kubernetes.use_secret_as_env,
        "configMapKeyRef": kubernetes.use_config_map_as_env,
    }
    _only(f"{place}.valueFrom", sources, *use, "fieldRef")
    kind, reference = _single(f"{place}.valueFrom", sources)
    place = f"{place}.valueFrom.{kind}"
    reference = _map(place, reference)
    if kind == "fieldRef":
        # apiVersion can be v1 only.
        _only(place, reference, "fieldPath", "apiVersion")
        kubernetes.use_field_path_as_env(task, name, _text(f"{place}.fieldPath", reference.get("fieldPath")))
        return
    _only(place, reference, "name", "key", "optional")
    object_name, key = (_text(f"{place}.{field}", reference.get(field)) for field in ("name", "key"))
    use[kind](task, object_name, {key: name}, optional=bool(reference.get("optional")))


def _mount(task: dsl.PipelineTask, volumes: list[tuple[str, dict]], mounts: list[tuple[str, dict]]) -> None:
    by_name = {_text(f"{place}.name", volume.get("name")): volume for place, volume in volumes}
    mounted = {_text(f"{place}.name", mount.get("name")) for place, mount in mounts}
    for name in by_name.keys() - mounted:
        raise InputError(f"{_PARAMETER}: volumes: '{name}' has no volumeMount")
    for name in mounted - by_name.keys():
        raise InputError(f"{_PARAMETER}: volume_mounts: there is no volume '{name}'")
    for _, mount in mounts:
        name = mount["name"]
        place = f"volumes[{name}]"
        volume = {key: value for key, value in by_name[name].items() if key != "name"}
        _only(place, volume, "persistentVolumeClaim", "secret", "configMap")
        kind, source = _single(place, volume)
        source = _map(f"{place}.{kind}", source)
        path = _text(f"volume_mounts[{name}].mountPath", mount.get("mountPath"))
        config_map = source.get("name") if kind == "configMap" else None
        make_way(task.platform_config.setdefault("kubernetes", {}), {"configMapName": config_map, "mountPath": path})
        if kind == "persistentVolumeClaim":
            _only(f"volume_mounts[{name}]", mount, "name", "mountPath", "subPath")
            _only(f"{place}.{kind}", source, "claimName")
            claim = _text(f"{place}.{kind}.claimName", source.get("claimName"))
            sub_path = _text(f"volume_mounts[{name}].subPath", mount.get("subPath", ""), allow_empty=True)
            kubernetes.mount_pvc(task, claim, path, sub_path)
            continue
        _only(f"volume_mounts[{name}]", mount, "name", "mountPath")
        use, key = (
            (kubernetes.use_secret_as_volume, "secretName")
            if kind == "secret"
            else (kubernetes.use_config_map_as_volume, "name")
        )
        _only(f"{place}.{kind}", source, key, "optional")
        use(task, _text(f"{place}.{kind}.{key}", source.get(key)), path, optional=bool(source.get("optional")))


def _set_resources(task: dsl.PipelineTask, resources: Mapping[str, Any]) -> None:
    _only("resources", resources, "requests", "limits")
    requests, limits = (
        {
            name: _quantity(f"resources.{kind}.{name}", quantity)
            for name, quantity in _map(f"resources.{kind}", resources.get(kind)).items()
        }
        for kind in ("requests", "limits")
    )
    for kind, quantities in (("requests", requests), ("limits", limits)):
        for name in quantities:
            if name.startswith(_NOT_ACCELERATORS):
                raise InputError(
                    f"{_PARAMETER}: resources.{kind}: KFP cannot express {name}; it takes cpu, memory and one kind of "
                    "accelerator"
                )
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
            try:
                set_value(amounts[resource])
            except ValueError as error:
                raise InputError(f"{_PARAMETER}: resources.{kind}.{resource}={amounts[resource]}: {error}") from None
    accelerators = {name: amount for name, amount in limits.items() if name not in ("cpu", "memory")}
    if len(accelerators) > 1:
        raise InputError(
            f"{_PARAMETER}: resources.limits: {', '.join(accelerators)}: KFP takes one kind of accelerator"
        )
    for name, amount in accelerators.items():
        if not amount.isdecimal() or requests.get(name, amount) != amount:
            raise InputError(
                f"{_PARAMETER}: resources of {name}: limit {amount}, request {requests.get(name, amount)}; allowed: "
                "the same integer of at least 0 for both, since accelerators cannot be shared"
            )
        task.set_accelerator_type(name).set_accelerator_limit(amount)


def _plain(value: Any) -> Any:
    """Objects of the Kubernetes client as Kubernetes' JSON; everything else unchanged."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "openapi_types"):
        from kubernetes.client import ApiClient

        return ApiClient().sanitize_for_serialization(value)
    return value


def _items(place: str, value: Any) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _malformed(place, value, "a list of objects")
    return [(f"{place}[{number}]", _object(f"{place}[{number}]", item)) for number, item in enumerate(value)]


def _map(place: str, value: Any) -> dict[str, Any]:
    return {} if value is None else _object(place, value)


def _object(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _malformed(place, value, "an object as in Kubernetes' JSON")
    return value


def _single(place: str, value: dict[str, Any]) -> tuple[str, Any]:
    if len(value) != 1:
        raise _malformed(place, ", ".join(value) or None, "one source")
    return next(iter(value.items()))


def _text(place: str, value: Any, allow_empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or allow_empty):
        raise _malformed(place, value, "a string")
    return value


def _quantity(place: str, value: Any) -> str:
    """As a string; Kubernetes accepts numbers too."""
    text = str(value) if type(value) in (int, float) else value
    if not isinstance(text, str) or not is_quantity(text):
        raise _malformed(place, value, "a Kubernetes quantity, such as 8, 500m or 32Gi")
    return text


def _malformed(place: str, value: Any, allowed: str) -> InputError:
    return InputError(
        f"{_PARAMETER}: {place} is missing; allowed: {allowed}"
        if value is None
        else f"{_PARAMETER}: {place}={value!r} is not allowed; allowed: {allowed}"
    )


def _only(place: str, found: Mapping[str, Any], *allowed: str) -> None:
    others = [key for key in found if key not in allowed]
    if others:
        raise InputError(
            f"{_PARAMETER}: {place}: KFP cannot express {', '.join(others)}; it takes {', '.join(allowed)}"
        )
