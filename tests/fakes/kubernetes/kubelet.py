"""How a kubelet sets up a container: environment, command line and mounts."""

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fakes.kubernetes.pods import CONTAINER
from fakes.kubernetes.resources import CONFIG_MAPS, SECRETS
from fakes.kubernetes.store import Body

if TYPE_CHECKING:
    from fakes.kubernetes.cluster import Cluster

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class ConfigError(Exception):
    """Why a container cannot be configured, in the words of CreateContainerConfigError."""


def expand(text: str, environment: Mapping[str, str]) -> str:
    """$(NAME) becomes the variable's value, or stays if there is no such variable; $$ becomes $.

    So $$(NAME) gives $(NAME), and a $ before anything else stays. Source: Kubernetes' expansion package.
    """

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return environment.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def container_of(pod: Body) -> Body:
    return next(one for one in pod["spec"]["containers"] if one["name"] == CONTAINER)


def command_line(container: Body, environment: Mapping[str, str]) -> list[str]:
    """command and args, expanded."""
    return [expand(word, environment) for word in [*container.get("command", []), *container.get("args", [])]]


def environment(cluster: "Cluster", pod: Body) -> dict[str, str]:
    """The container's env, in its order, each value expanded with what came before. Raises ConfigError."""
    values: dict[str, str] = {}
    for variable in container_of(pod).get("env", ()):
        if "valueFrom" in variable:
            value = _value_from(cluster, pod, variable["valueFrom"])
            if value is not None:
                values[variable["name"]] = value
        else:
            values[variable["name"]] = expand(variable.get("value", ""), values)
    return values


def _value_from(cluster: "Cluster", pod: Body, source: Body) -> str | None:
    """None for an optional reference that does not exist."""
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"])
    for kind, resource, said in (("secretKeyRef", SECRETS, "secret"), ("configMapKeyRef", CONFIG_MAPS, "configmap")):
        if kind not in source:
            continue
        reference = source[kind]
        held = cluster.store.find(resource, cluster.namespace, reference["name"])
        if held is None:
            if reference.get("optional"):
                return None
            raise ConfigError(f'{said} "{reference["name"]}" not found')
        if reference["key"] not in held.get("data", {}):
            if reference.get("optional"):
                return None
            raise ConfigError(
                f"couldn't find key {reference['key']} in {resource.kind} {cluster.namespace}/{reference['name']}"
            )
        value = held["data"][reference["key"]]
        return base64.b64decode(value).decode() if kind == "secretKeyRef" else value
    raise NotImplementedError(f"env with valueFrom {sorted(source)}")


def _field(pod: Body, path: str) -> str:
    if match := _SUBSCRIPT.fullmatch(path):
        return pod["metadata"].get(match[1], {}).get(match[2], "")
    value: object = pod
    for step in path.split("."):
        value = value.get(step, "") if isinstance(value, dict) else ""
    return str(value)


def unknown_volumes(spec: Body) -> Iterator[str]:
    """The API server's message for a container that mounts a volume its pod does not have."""
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    for number, container in enumerate(spec["containers"]):
        for position, mount in enumerate(container.get("volumeMounts", ())):
            if mount["name"] not in volumes:
                yield f'spec.containers[{number}].volumeMounts[{position}].name: Not found: "{mount["name"]}"'


def unknown_claims(pod: Body, claims: Mapping[str, Path]) -> Iterator[str]:
    """Names of the PersistentVolumeClaims of the pod that do not exist."""
    for volume in pod["spec"].get("volumes", ()):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim is not None and claim not in claims:
            yield claim


def uncovered(pod: Body, claims: Mapping[str, Path]) -> Iterator[str]:
    """A sentence for each claim whose folder is not mounted at its own path in the container."""
    volumes = {
        volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName")
        for volume in pod["spec"].get("volumes", ())
    }
    mounts = container_of(pod).get("volumeMounts", ())
    for claim, folder in claims.items():
        paths = [
            mount["mountPath"] for mount in mounts if volumes.get(mount["name"]) == claim and not mount.get("subPath")
        ]
        if not any(folder.is_relative_to(path) for path in paths):
            yield f"{folder} of claim {claim} is not visible in the container; the claim is mounted at {paths}"
