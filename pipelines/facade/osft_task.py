"""OsftTask: the stages in a caller's pipeline, in place of the one task of the single component.

Each setting goes where it applies: pod settings to all stages, secrets and environment variables to the stages that
need them, resources and placement to the training pods (KFP passes those of launch_trainjob on to the TrainJob through
its TaskConfig).
"""

import copy
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from kfp import dsl
from kfp.dsl import pipeline_task

from kfp_osft.pipelines.osft.wiring import StageTasks
from kfp_osft.shared.parameters.environment import is_runtimes_own
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.component import check_image, make_way

# With check_matrices, collect_metrics reads the base model.
_HUB_STAGES = ("resolve_dataset", "preprocess", "launch_trainjob", "collect_metrics", "export_model", "evaluate_model")
# preprocess checks the destination; evaluate_model pushes, or without it export_model.
_PUSH_STAGES = ("preprocess", "export_model", "evaluate_model")
# The training only where training_report_to asks for it.
_MLFLOW_STAGES = ("launch_trainjob", "collect_metrics", "render_loss_chart", "export_model", "evaluate_model")
# Which stages get an environment variable, by its name; the first match wins.
_ENV_STAGES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"KUBERNETES_.*|OSFT_LAUNCHER"), ("launch_trainjob",)),
    (re.compile(r"OCI_PULL_SECRET_.*"), _PUSH_STAGES),
    (re.compile(r"HF_.*|HUGGING_FACE_.*"), _HUB_STAGES),
    # Not AWS_CA_BUNDLE: what one client trusts, all do.
    (re.compile(r"AWS_(?!CA_BUNDLE$).*|S3_.*"), ("resolve_dataset", *_PUSH_STAGES)),
    (re.compile(r"OSFT_MODELCAR_BASE"), _PUSH_STAGES),
    (re.compile(r"EVAL_HUB_.*"), ("evaluate_model",)),
    # preprocess only says whether it will be used.
    (re.compile(r"MLFLOW_TRACKING_URI"), ("preprocess", *_MLFLOW_STAGES)),
    (re.compile(r"MLFLOW_.*"), _MLFLOW_STAGES),
    # PIP_*, proxies, certificate authorities and unknown names: all stages install packages and use clients.
    (re.compile(r".*"), StageTasks._fields),
)
# Fields of kfp.kubernetes' KubernetesExecutorConfig (JSON names) whose items name environment variables, and the list
# inside an item that holds the names; None where the item itself has the name.
_ENV_FIELDS = {"secretAsEnv": "keyToEnv", "configMapAsEnv": "keyToEnv", "fieldPathAsEnv": None}
# KFP cannot pass these volumes on to the training pods, and they are of no use on the stages' own pods.
_REFUSED_VOLUMES = {"emptyDirMounts": "empty_dir_mount", "genericEphemeralVolume": "add_ephemeral_volume"}
_TRAINING_POD_FIELDS = ("nodeSelector", "tolerations", "nodeAffinity", "podAffinity")


def stages_of_env(name: str) -> tuple[str, ...]:
    """The stages that get an environment variable of this name.

    Raises:
        InputError: the training runtime sets it, and launch_trainjob would refuse it.
    """
    if is_runtimes_own(name):
        raise InputError(f"the environment variable {name} is set by the training runtime and cannot be given")
    return next(stages for pattern, stages in _ENV_STAGES if pattern.fullmatch(name))


class OsftTask(dsl.PipelineTask):
    """Stands for the tasks of the stages in the pipeline that is being defined.

    It is a PipelineTask to KFP and to callers, without being a task of its own: PipelineTask's constructor would
    register one. `.after(it)` waits for the exported model, or for its evaluation where there is one.
    """

    # No super().__init__: see above.
    def __init__(self, tasks: StageTasks) -> None:
        self.tasks = tasks
        self.state = pipeline_task.TaskState.FUTURE
        self.platform_config = _PlatformConfig(tasks)
        self._outputs = tasks.outputs()
        self._inputs = {**tasks.resolve_dataset.inputs, **tasks.preprocess.inputs}
        self.parent_task_group = tasks.last.parent_task_group
        self.component_spec = None

    @property
    def name(self) -> str:
        return self.tasks.last.name

    @property
    def dependent_tasks(self) -> list[str]:
        return self.tasks.resolve_dataset.dependent_tasks

    @property
    def channel_inputs(self) -> list:
        return [channel for task in self.tasks.present.values() for channel in task.channel_inputs]

    @property
    def platform_spec(self) -> NoReturn:
        raise ValueError("train_model's task has no platform_spec; use its platform_config through kfp.kubernetes")

    # For the first stage, which the others wait for.

    def after(self, *tasks: Any) -> "OsftTask":
        self.tasks.resolve_dataset.after(*tasks)
        return self

    def ignore_upstream_failure(self) -> "OsftTask":
        first = self.tasks.resolve_dataset
        # KFP looks up every input, and so fails (KeyError) on those that were left out.
        left_out = (first.component_spec.inputs or {}).keys() - first.inputs.keys()
        first.inputs.update(dict.fromkeys(left_out, ""))
        try:
            first.ignore_upstream_failure()
        finally:
            for name in left_out:
                del first.inputs[name]
        return self

    # For all stages.

    def set_caching_options(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_all("set_caching_options", *args, **kwargs)

    def set_retry(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_all("set_retry", *args, **kwargs)

    def set_container_image(self, name: Any) -> "OsftTask":
        if isinstance(name, str) and "{{" not in name:
            check_image(name)
        return self._to_all("set_container_image", name)

    def register_pipeline_channels(self, *args: Any, **kwargs: Any) -> None:
        self._to_all("register_pipeline_channels", *args, **kwargs)

    def set_display_name(self, name: str) -> "OsftTask":
        for stage, task in self.tasks.present.items():
            task.set_display_name(f"{name}: {stage.replace('_', ' ')}")
        return self

    # By the variable's name.

    def set_env_variable(self, name: str, value: str) -> "OsftTask":
        for stage in stages_of_env(name):
            if stage in self.tasks.present:
                self.tasks.present[stage].set_env_variable(name, value)
        return self

    # For the training pods.

    def set_cpu_request(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_training("set_cpu_request", *args, **kwargs)

    def set_cpu_limit(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_training("set_cpu_limit", *args, **kwargs)

    def set_memory_request(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_training("set_memory_request", *args, **kwargs)

    def set_memory_limit(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_training("set_memory_limit", *args, **kwargs)

    def set_accelerator_type(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_training("set_accelerator_type", *args, **kwargs)

    def set_accelerator_limit(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_training("set_accelerator_limit", *args, **kwargs)

    def set_gpu_limit(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_training("set_gpu_limit", *args, **kwargs)

    def add_node_selector_constraint(self, *args: Any, **kwargs: Any) -> "OsftTask":
        return self._to_training("add_node_selector_constraint", *args, **kwargs)

    def _to_all(self, method: str, *args: Any, **kwargs: Any) -> "OsftTask":
        for task in self.tasks.present.values():
            getattr(task, method)(*args, **kwargs)
        return self

    def _to_training(self, method: str, *args: Any, **kwargs: Any) -> "OsftTask":
        getattr(self.tasks.launch_trainjob, method)(*args, **kwargs)
        return self


class _PlatformConfig(dict):
    """kfp.kubernetes' functions read and write this back as a whole; new entries go to the stages that they concern."""

    def __init__(self, tasks: StageTasks) -> None:
        super().__init__()
        self._tasks = tasks

    def __setitem__(self, platform: str, config: Mapping[str, Any]) -> None:
        earlier = self.get(platform, {})
        for field, value in config.items():
            if value == earlier.get(field):
                continue
            if isinstance(value, list):
                for item in value[len(earlier.get(field, [])) :]:
                    self._add_item(platform, field, item)
            else:
                for stage in self._stages(_stages_of_field(field)):
                    _merge(self._config_of(stage, platform), {field: value})
        super().__setitem__(platform, copy.deepcopy(dict(config)))

    def _add_item(self, platform: str, field: str, item: Mapping[str, Any]) -> None:
        if field in _REFUSED_VOLUMES:
            raise InputError(
                f"kfp.kubernetes.{_REFUSED_VOLUMES[field]} on train_model's task: KFP cannot pass such a volume on to "
                "the training pods; for /dev/shm set training_resource_shared_memory_per_worker, for files mount a "
                "claim"
            )
        if field not in _ENV_FIELDS:
            for stage in self._stages(_stages_of_field(field)):
                make_way(self._config_of(stage, platform), item)
                self._config_of(stage, platform).setdefault(field, []).append(copy.deepcopy(item))
            return
        entries = _ENV_FIELDS[field]
        # One Secret may hold variables for different stages: each gets an item with its own variables.
        by_stage: dict[str, list] = {}
        for entry in item[entries] if entries else [item]:
            name = entry["envVar"] if entries else entry["name"]
            for stage in self._stages(stages_of_env(name)):
                by_stage.setdefault(stage, []).append(entry)
        for stage, chosen in by_stage.items():
            part = {**item, entries: chosen} if entries else item
            self._config_of(stage, platform).setdefault(field, []).append(copy.deepcopy(part))

    def _stages(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self._tasks.present]

    def _config_of(self, stage: str, platform: str) -> dict[str, Any]:
        return getattr(self._tasks, stage).platform_config.setdefault(platform, {})


def _stages_of_field(field: str) -> tuple[str, ...]:
    return ("launch_trainjob",) if field in _TRAINING_POD_FIELDS else StageTasks._fields


def _merge(target: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)
