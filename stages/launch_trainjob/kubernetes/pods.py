"""What the training pods get from the task and from the parameters: environment, volumes, resources, placement.

Only computes; see trainjob.py for the TrainJob that is made of it.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kfp_osft.shared.network import certificates
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.environment import holds_secret, is_runtimes_own
from kfp_osft.shared.parameters.kubernetes_syntax import quantity_value
from kfp_osft.shared.processes.pod import cache_folders
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.config import TrainingConfig
from kfp_osft.stages import find_package
from kfp_osft.stages.launch_trainjob.kubernetes.progress_annotations import progress_port
from kfp_osft.stages.launch_trainjob.sign_of_life import SIGN_FILE
from kfp_osft.stages.launch_trainjob.train_script import ARGS_VARIABLE

_GPU = "nvidia.com/gpu"
_NO_ACCELERATORS = ("cpu", "memory", "ephemeral-storage", "storage", "hugepages-")
_DEFAULTS = {parameter.name: parameter.default for parameter in ALL_PARAMETERS}
# The launcher's own: the cluster's credentials have no business in a training, which installs nothing either.
_LAUNCHERS_OWN = ("KUBERNETES_", "KFP_", "OSFT_", "PIP_")
# Of no use to the training: its script stands alone, and the authorities lie in the workspace.
_LAUNCHERS_MOUNTS = (find_package.MOUNT_PATH, certificates.MOUNT_PATH)
_SHARED_MEMORY = "/dev/shm"
#: Secrets that the training may need and that the launcher hands on where it only has the value.
HANDED_ON_SECRETS = ("HF_TOKEN",)


@dataclass(frozen=True)
class TrainingPods:
    """Fragments of the pods' spec, as Kubernetes' JSON has them.

    Attributes:
        env: without those of secret_env; literals are quoted against expansion where they are ours.
        secret_env: variables whose values only the launcher has; they go through a Secret.
        requests, limits: quantities as strings, without zeros.
        processes: training processes in a pod.
        accelerators: in a pod; 0 trains on CPU.
        warnings: sentences about what will not be as given.
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
    """Puts together what the parameters, the task and the launcher's environment say.

    Args:
        config: the checked parameters.
        pvc_path: the workspace, which a volume must cover.
        task_config: KFP's TaskConfig of the task, or None.
        environment: the launcher's own, for secrets that the task hands over by value only.

    Raises:
        InputError: no volume covers a path that the training uses, or it is read-only; a variable that the runtime
            owns.
    """
    mounts = [mount for mount in _of(task_config, "volume_mounts") or [] if mount["mountPath"] not in _LAUNCHERS_MOUNTS]
    mounted = {mount["name"] for mount in mounts}
    volumes = [volume for volume in _of(task_config, "volumes") or [] if volume["name"] in mounted]
    _check_volumes(config, pvc_path, volumes, mounts)
    resources, accelerators, warnings = _resources(config.trainjob, _of(task_config, "resources") or {})
    processes = config.trainjob["procs_per_worker"]
    processes = max(1, accelerators) if processes == "auto" else processes
    memory = resources["limits"].get("memory") or resources["requests"].get("memory")
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
    """The text such that the kubelet, which replaces $(NAME) in commands and env and $$ by $, gives it back as it is.

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
        "the checkpoints": (osft["ckpt_output_dir"], True),
        "training_data_output_dir": (osft["data_output_dir"], True),
        "the data": (osft["data_path"], False),
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
                f"{what} is {path}, which no volume of this task covers (mounted: "
                f"{', '.join(sorted(covering)) or 'none'}): the training pods could not see it. In a pipeline with a "
                "workspace give pvc_path=dsl.WORKSPACE_PATH_PLACEHOLDER; or mount a claim with "
                "kfp.kubernetes.mount_pvc"
            )
        if written and place.get("readOnly"):
            raise InputError(f"{what} is {path}, on a volume that is mounted read-only at {place['mountPath']}")


def _resources(trainjob: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[dict[str, dict], int, list[str]]:
    """What a pod requests and is limited to. A parameter that has its default leaves what the task says; else it
    holds."""
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
            warnings.append(f"{name}={given} is used, not the task's {resource} of {from_task}")
        requests[resource] = limits[resource] = given

    kinds = [resource for resource in {**requests, **limits} if not resource.startswith(_NO_ACCELERATORS)]
    kind = kinds[0] if kinds else _GPU
    given, from_task = trainjob["gpu_per_worker"], limits.get(kind) or requests.get(kind)
    if from_task is None or given != _DEFAULTS["training_resource_gpu_per_worker"]:
        if from_task is not None and from_task != str(given):
            warnings.append(f"training_resource_gpu_per_worker={given} is used, not the task's {from_task} of {kind}")
        requests[kind] = limits[kind] = str(given)
        for other in kinds[1:]:
            requests.pop(other, None)
            limits.pop(other, None)
    else:
        # Kubernetes wants both to be the same for what cannot be shared.
        requests[kind] = limits[kind] = from_task
    accelerators = int(limits[kind])
    # Explicit zeros break Kueue's resuming.
    kept = {
        place: {name: quantity for name, quantity in quantities.items() if quantity not in ("0", "")}
        for place, quantities in (("requests", requests), ("limits", limits))
    }
    return kept, accelerators, warnings


def _shared_memory(given: str, memory: str | None, processes: int) -> str | None:
    """Size of a /dev/shm of its own, None for none. It counts as memory of the pod."""
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
    """The environment by precedence: what the launcher sets, the parameter training_envs, the task, our defaults."""
    env = {name: {"value": unexpanded(folder)} for name, folder in cache_folders(pvc_path).items()}
    secret_env: dict[str, str] = {}
    for variable in task_env:
        name = variable["name"]
        if name.startswith(_LAUNCHERS_OWN):
            continue
        if is_runtimes_own(name):
            raise InputError(
                f"the environment variable {name} of the task is set by the training runtime and cannot be given"
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
    env |= {name: {"value": unexpanded(value)} for name, value in config.env.items()}
    # In the place of files that the launcher sees and the training pods need not.
    env |= {
        name: {"value": unexpanded(path)} for name, path in certificates.bundle_variables(environment, pvc_path).items()
    }
    # A TrainJob that asked for GPUs fails at once where there is none; it never trains on their CPU.
    arguments = {
        "osft": config.osft,
        "device": "cuda" if accelerators else "cpu",
        "resumable": True,
        "attendance": {
            "file": str(PurePosixPath(config.osft["ckpt_output_dir"], SIGN_FILE)),
            "minutes": config.trainjob["unattended_limit_minutes"],
        },
        "progress_port": progress_port(config.trainjob),
    }
    env[ARGS_VARIABLE] = {"value": base64.b64encode(json.dumps(arguments).encode()).decode()}
    return [{"name": name, **value} for name, value in env.items()], secret_env
