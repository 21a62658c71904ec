"""The training pods' environment, volumes, resources and placement, from the task and the parameters.

Pure functions; trainjob.py builds the TrainJob from them.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kfp_osft.shared.files.ownership import OWNER_FILE
from kfp_osft.shared.network import certificates
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.environment import holds_secret, is_of_unwanted_tracker, is_runtimes_own
from kfp_osft.shared.parameters.kubernetes_syntax import quantity_value
from kfp_osft.shared.processes.pod import cache_folders
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.shared.training.memory import check_pod
from kfp_osft.stages.launch_trainjob.kubernetes.progress_annotations import progress_port
from kfp_osft.stages.launch_trainjob.train_script import ARGS_VARIABLE
from kfp_osft.stages.mount import MOUNT_PATH as STAGES_MOUNT_PATH

_GPU = "nvidia.com/gpu"
_NO_ACCELERATORS = ("cpu", "memory", "ephemeral-storage", "storage", "hugepages-")
_DEFAULTS = {parameter.name: parameter.default for parameter in ALL_PARAMETERS}
# The launcher's own: the training needs no credentials of the cluster, and installs nothing.
_LAUNCHERS_OWN = ("KUBERNETES_", "KFP_", "OSFT_", "PIP_")
# Useless to the training: its script is self-contained, and the certificate authorities are in the workspace.
_LAUNCHERS_MOUNTS = (STAGES_MOUNT_PATH, certificates.MOUNT_PATH)
_SHARED_MEMORY = "/dev/shm"
#: Secrets that the training may need and that the launcher passes on if it has only their values.
HANDED_ON_SECRETS = ("HF_TOKEN",)


@dataclass(frozen=True)
class TrainingPods:
    """Fragments of the pods' spec, as Kubernetes' JSON has them.

    Attributes:
        env: without secret_env; our own literals are escaped against expansion.
        secret_env: variables whose values only the launcher has; they are passed in a Secret.
        requests, limits: quantities as strings, without zeros.
        processes: training processes per pod.
        accelerators: per pod; 0 trains on CPU.
        warnings: sentences about values that are overridden.
    """

    env: list[dict[str, Any]]
    secret_env: dict[str, str]
    volumes: list[dict[str, Any]]
    volume_mounts: list[dict[str, Any]]
    requests: dict[str, str]
    limits: dict[str, str]
    processes: int
    accelerators: int
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    affinity: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def claims(self) -> list[str]:
        """Names of the PersistentVolumeClaims."""
        return [
            volume["persistentVolumeClaim"]["claimName"] for volume in self.volumes if "persistentVolumeClaim" in volume
        ]


def training_pods(
    config: TrainingConfig, pvc_path: str, task_config: Any, environment: Mapping[str, str]
) -> TrainingPods:
    """Combines the parameters, the task's settings and the launcher's environment.

    Args:
        config: the validated parameters.
        pvc_path: the workspace, which a volume must cover.
        task_config: KFP's TaskConfig of the task, or None.
        environment: the launcher's own, for secrets that the task has only by value.

    Raises:
        InputError: a path that the training uses is on no volume, or on a read-only one; a variable is reserved for
            the runtime; a limit of memory in which the training cannot fit.
    """
    mounts = [mount for mount in _of(task_config, "volume_mounts") or [] if mount["mountPath"] not in _LAUNCHERS_MOUNTS]
    mounted = {mount["name"] for mount in mounts}
    volumes = [volume for volume in _of(task_config, "volumes") or [] if volume["name"] in mounted]
    _check_volumes(config, pvc_path, volumes, mounts)
    resources, accelerators, warnings = _resources(config.trainjob, _of(task_config, "resources") or {})
    processes = config.trainjob["procs_per_worker"]
    processes = max(1, accelerators) if processes == "auto" else processes
    limit = resources["limits"].get("memory")
    check_pod(config.about.get("memory_need") or {}, limit, accelerators, config.trainjob["num_workers"])
    memory = limit or resources["requests"].get("memory")
    size = _shared_memory(config.trainjob["shared_memory_per_worker"], memory, processes)
    if size and not any(mount["mountPath"] == _SHARED_MEMORY for mount in mounts):
        volumes.append({"name": "kfp-osft-shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
        mounts.append({"name": "kfp-osft-shm", "mountPath": _SHARED_MEMORY})
    env, secret_env = _env(config, pvc_path, _of(task_config, "env") or [], environment, accelerators)
    return TrainingPods(
        env,
        secret_env,
        volumes,
        mounts,
        **resources,
        processes=processes,
        accelerators=accelerators,
        node_selector=dict(_of(task_config, "node_selector") or {}),
        tolerations=list(_of(task_config, "tolerations") or []),
        affinity=dict(_of(task_config, "affinity") or {}),
        warnings=tuple(warnings),
    )


def unexpanded(text: str) -> str:
    """Escapes the text so that the kubelet, which expands $(NAME) and $$ in commands and env, restores it unchanged.

    Source: Kubernetes' third_party/forked/golang/expansion.
    """
    return text.replace("$", "$$")


def _of(task_config: Any, name: str) -> Any:
    return getattr(task_config, name, None)


def _check_volumes(config: TrainingConfig, pvc_path: str, volumes: list[dict], mounts: list[dict]) -> None:
    declared = {volume["name"] for volume in volumes}
    covering = {mount["mountPath"]: mount for mount in mounts if mount["name"] in declared}
    osft = config.osft
    paths = {
        "pvc_path": (pvc_path, True),
        # The data lies below them.
        "the checkpoints": (osft["ckpt_output_dir"], True),
        "training_base_model": (osft["model_path"], False),
    }
    for what, (path, written) in paths.items():
        if not path.startswith("/"):
            continue
        place = next(
            (
                covering[str(folder)]
                for folder in (PurePosixPath(path), *PurePosixPath(path).parents)
                if str(folder) in covering
            ),
            None,
        )
        if place is None:
            raise InputError(
                f"{what} is {path}, which is not on a volume of this task (mounted: "
                f"{', '.join(sorted(covering)) or 'none'}): the training pods could not see it. In a pipeline with a "
                "workspace set pvc_path=dsl.WORKSPACE_PATH_PLACEHOLDER, or mount a claim with "
                "kfp.kubernetes.mount_pvc"
            )
        if written and place.get("readOnly"):
            raise InputError(f"{what} is {path}, on a volume that is mounted read-only at {place['mountPath']}")


def _resources(trainjob: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[dict[str, dict], int, list[str]]:
    """Requests and limits of a pod, its accelerators, and warnings. A parameter other than its default overrides the
    task's value."""
    warnings: list[str] = []
    requests = {name: str(quantity) for name, quantity in (task.get("requests") or {}).items()}
    limits = {name: str(quantity) for name, quantity in (task.get("limits") or {}).items()}

    for resource in ("cpu", "memory"):
        name = f"training_resource_{resource}_per_worker"
        given = trainjob[f"{resource}_per_worker"]
        from_task = limits.get(resource) or requests.get(resource)
        if from_task and given == _DEFAULTS[name]:
            continue
        if from_task and from_task != given:
            warnings.append(f"{name}={given} overrides the task's {resource} of {from_task}")
        requests[resource] = limits[resource] = given

    kinds = [resource for resource in {**requests, **limits} if not resource.startswith(_NO_ACCELERATORS)]
    kind = kinds[0] if kinds else _GPU
    given, from_task = trainjob["gpu_per_worker"], limits.get(kind) or requests.get(kind)
    if from_task is None or given != _DEFAULTS["training_resource_gpu_per_worker"]:
        if from_task is not None and from_task != str(given):
            warnings.append(f"training_resource_gpu_per_worker={given} overrides the task's {from_task} of {kind}")
        requests[kind] = limits[kind] = str(given)
        for other in kinds[1:]:
            requests.pop(other, None)
            limits.pop(other, None)
    else:
        # Kubernetes requires both to be equal for extended resources.
        requests[kind] = limits[kind] = from_task
    accelerators = int(limits[kind])
    # Explicit zeros break resuming by Kueue.
    kept = {
        place: {name: quantity for name, quantity in quantities.items() if quantity not in ("0", "")}
        for place, quantities in (("requests", requests), ("limits", limits))
    }
    return kept, accelerators, warnings


def _shared_memory(given: str, memory: str | None, processes: int) -> str | None:
    """Size of the /dev/shm volume, None for no volume. It counts towards the pod's memory."""
    if given != "auto":
        return given if quantity_value(given) else None
    if processes == 1 or not memory:
        return None
    return f"{int(quantity_value(memory) / 2) >> 20}Mi"


def _env(
    config: TrainingConfig,
    pvc_path: str,
    task_env: list[dict[str, Any]],
    environment: Mapping[str, str],
    accelerators: int,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The environment; in order of precedence: the launcher's, training_envs, the task's, our defaults."""
    env = {name: {"value": unexpanded(folder)} for name, folder in cache_folders(pvc_path).items()}
    secret_env: dict[str, str] = {}
    report_to = config.data.get("report_to") or []
    for variable in task_env:
        name = variable["name"]
        if name.startswith(_LAUNCHERS_OWN) or is_of_unwanted_tracker(name, report_to):
            continue
        if is_runtimes_own(name):
            raise InputError(
                f"the environment variable {name} is set by the training runtime and cannot be set on the task"
            )
        if "valueFrom" in variable:
            env[name] = {"valueFrom": variable["valueFrom"]}
        elif variable.get("value") and holds_secret(name, variable["value"]):
            secret_env[name] = variable["value"]
        else:
            env[name] = {"value": variable.get("value") or ""}
    for name in HANDED_ON_SECRETS:
        if environment.get(name) and name not in env:
            secret_env.setdefault(name, environment[name])
    env |= {
        name: {"value": unexpanded(value)}
        for name, value in config.env.items()
        if not is_of_unwanted_tracker(name, report_to)
    }
    # Replaces paths that exist for the launcher but may not for the training pods.
    env |= {
        name: {"value": unexpanded(path)} for name, path in certificates.bundle_variables(environment, pvc_path).items()
    }
    # A TrainJob that requested GPUs fails at once if there are none; it never falls back to the CPU.
    arguments = {
        "osft": config.osft,
        "device": "cuda" if accelerators else "cpu",
        "resumable": True,
        "attendance": {
            "file": str(PurePosixPath(config.osft["ckpt_output_dir"], OWNER_FILE)),
            "minutes": config.trainjob["unattended_limit_minutes"],
        },
        "progress_port": progress_port(config.trainjob),
        "report_to": report_to,
    }
    env[ARGS_VARIABLE] = {"value": base64.b64encode(json.dumps(arguments).encode()).decode()}
    return [{"name": name, **value} for name, value in env.items()], secret_env
