"""Compiled pipelines as the tests of the facade look at them, and components that stand for a caller's."""

import inspect
from typing import Any, NamedTuple

from google.protobuf import json_format
from kfp import dsl
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

from kfp_osft.shared.network import certificates
from kfp_osft.stages.mount import MOUNT_PATH

STAGES = ["resolve-dataset", "preprocess", "launch-trainjob", "collect-metrics", "render-loss-chart", "export-model"]
LAUNCH = ["launch-trainjob"]
HUB = ["resolve-dataset", "preprocess", "launch-trainjob", "collect-metrics", "export-model"]
#: Where the stages mount their own code, and certificate authorities.
OWN_MOUNTS = (MOUNT_PATH, certificates.MOUNT_PATH)
PYTHON_IMAGE = "python:3.11"
WORKSPACE = dsl.WorkspaceConfig(
    size="1Gi", kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"accessModes": ["ReadWriteMany"]})
)


class Compiled(NamedTuple):
    """A compiled pipeline: both documents, and what is looked for in them by task name."""

    specification: dict[str, Any]
    platform: dict[str, Any]

    @property
    def tasks(self) -> dict[str, dict]:
        """All tasks, those of nested groups too."""
        groups = [self.specification["root"], *self.specification["components"].values()]
        dags = [group["dag"] for group in groups if "dag" in group]
        return {name: task for dag in dags for name, task in dag["tasks"].items()}

    def container(self, task: str) -> dict:
        return self.specification["deploymentSpec"]["executors"][f"exec-{task}"]["container"]

    @property
    def executors(self) -> dict[str, dict]:
        """By executor: what kfp.kubernetes set, but for the stages' own volumes."""
        platform = self.platform.get("platforms", {}).get("kubernetes", {})
        found = {}
        for name, config in platform.get("deploymentSpec", {}).get("executors", {}).items():
            volumes = [
                volume for volume in config.get("configMapAsVolume", []) if volume["mountPath"] not in OWN_MOUNTS
            ]
            others = {field: value for field, value in config.items() if field != "configMapAsVolume"}
            if config := others | ({"configMapAsVolume": volumes} if volumes else {}):
                found[name] = config
        return found

    def kubernetes(self, task: str) -> dict:
        """What kfp.kubernetes set on the task."""
        return self.executors.get(f"exec-{task}", {})

    def stages_with(self, field: str) -> list[str]:
        return [stage for stage in STAGES if field in self.kubernetes(stage)]


def documents_of(component) -> Compiled:
    """What the compiler writes as YAML, which takes it most of its time."""
    return Compiled(
        json_format.MessageToDict(component.pipeline_spec), json_format.MessageToDict(component.platform_spec)
    )


def compile_(function, parameters=None, **options) -> Compiled:
    """Compiles a pipeline function; its parameters may be given by type."""
    if parameters is not None:
        function.__signature__ = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=type_)
                for name, type_ in parameters.items()
            ]
        )
    compiled = documents_of(dsl.pipeline(name="callers", **options)(function))
    for config in compiled.executors.values():
        json_format.ParseDict(config, KubernetesExecutorConfig(), ignore_unknown_fields=False)
    return compiled


@dsl.component(base_image=PYTHON_IMAGE)
def make_values() -> NamedTuple("Values", [("text", str), ("integer", int), ("number", float), ("boolean", bool)]):
    return "text", 1, 1.0, True


@dsl.component(base_image=PYTHON_IMAGE)
def make_dataset(rows: dsl.Output[dsl.Dataset]):
    open(rows.path, "w").close()


@dsl.component(base_image=PYTHON_IMAGE)
def use_outputs(model: dsl.Input[dsl.Model], metrics: dsl.Input[dsl.Metrics], chart: dsl.Input[dsl.HTML], status: str):
    print(model.path, metrics.metadata, chart.path, status)


@dsl.component(base_image=PYTHON_IMAGE)
def say(text: str = "done"):
    print(text)


@dsl.component(base_image=PYTHON_IMAGE)
def count_models(models: dsl.Input[list[dsl.Model]]):
    print(len(models))


def rows_artifact():
    return dsl.importer(artifact_uri="s3://bucket/rows.jsonl", artifact_class=dsl.Dataset).output
