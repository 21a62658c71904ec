"""Runs a component or a pipeline with kfp.local's SubprocessRunner."""

import copy
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_kfp_local.isolation import apart, task_environment
from pytest_kfp_local.result import Result, TaskFailed, describe_failures, read_tasks
from pytest_kfp_local.spec import runnable_spec

# kfp takes a second to import, and pytest loads this plugin for tests that have nothing to do with it.
if TYPE_CHECKING:
    from kfp.dsl import Artifact
    from kfp.dsl.base_component import BaseComponent


class KfpLocal:
    """Runs KFP components and pipelines in a folder, as processes of this Python environment.

    Attributes:
        workspace: folder that stands for a pipeline's workspace (/kfp-workspace, dsl.WORKSPACE_PATH_PLACEHOLDER).
            All runs of the test share it, and it stays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = 0
        self.workspace = folder / "workspace"
        for name in ("workspace", "home", "tmp"):
            (folder / name).mkdir(parents=True)

    def run(
        self,
        component: "BaseComponent",
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        check: bool = True,
        pip: bool = False,
        **more_arguments: Any,
    ) -> Result:
        """Runs a component or a pipeline.

        Args:
            component: what @dsl.component, @dsl.pipeline or kfp.components.load_component_from_* made. It is
                not changed.
            arguments: arguments by name, for names that this method has itself, such as `pip`.
            check: a failed task raises TaskFailed. Without it, see the result's state and error.
            pip: the components' own pip install (kfp and packages_to_install) runs, into a folder of the run's.
            more_arguments: arguments by name. An input artifact is an artifact object, such as
                dsl.Dataset(uri="rows.jsonl", metadata={"rows": 3}), or a path. None is the same as left out.

        Raises:
            TaskFailed: a task failed.
            TypeError: unknown or missing argument.
            kfp.dsl.types.type_utils.InconsistentTypeException: argument of another type than the input's.
        """
        __tracebackhide__ = True
        arguments = {**(arguments or {}), **more_arguments}
        given = {name: value for name, value in arguments.items() if value is not None}
        self._runs += 1
        result = self._run(component, given, self._folder / f"run-{self._runs}", pip)
        print(result.log, end="")
        if check and result.error:
            raise TaskFailed(result)
        return result

    def _run(self, component: "BaseComponent", given: Mapping[str, Any], folder: Path, pip: bool) -> Result:
        from google.protobuf import json_format
        from kfp import local
        from kfp.dsl.base_component import BaseComponent
        from kfp.local.pipeline_orchestrator import run_local_pipeline
        from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

        if not isinstance(component, BaseComponent):
            raise TypeError(f"run takes a component or a pipeline (@dsl.component, @dsl.pipeline), not {component}")
        spec = json_format.MessageToDict(component.pipeline_spec)
        bound = _bind(component, spec["root"].get("inputDefinitions", {}).get("artifacts", {}), given)
        records = folder / "tasks"
        message = json_format.ParseDict(runnable_spec(spec, bound, records, pip), PipelineSpec())
        folder.mkdir()
        # kfp.local's own lines go into a file: the test's output is what the tasks print.
        with (
            open(folder / "kfp.log", "w", encoding="utf-8") as kfp_log,
            redirect_stdout(kfp_log),
            apart(task_environment(self._folder, folder / "packages" if pip else None)),
        ):
            local.init(
                local.SubprocessRunner(use_venv=False), pipeline_root=str(folder), workspace_root=str(self.workspace)
            )
            try:
                return Result(run_local_pipeline(message, bound), read_tasks(records))
            except RuntimeError:
                tasks = read_tasks(records)
                error = describe_failures(tasks)
                if not error:
                    # No task's doing: kfp.local cannot run it, and says why.
                    raise
                return Result({}, tasks, error)


def _bind(component: "BaseComponent", artifacts: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as kfp.local takes them, checked as KFP checks a call in a pipeline."""
    from kfp.dsl.pipeline_channel import create_pipeline_channel
    from kfp.dsl.pipeline_context import Pipeline

    bound, checked = {}, {}
    for name, value in given.items():
        if name in artifacts:
            several = isinstance(value, (list, tuple))
            schema = artifacts[name]["artifactType"]
            items = [_artifact(item, schema) for item in (value if several else [value])]
            bound[name] = items if several else items[0]
            for item in items:
                kind = f"{item.schema_title}@{item.schema_version}"
                checked[name] = create_pipeline_channel(name, kind, "upstream", is_artifact_list=several)
        else:
            bound[name] = checked[name] = os.fspath(value) if isinstance(value, os.PathLike) else value
    # In a pipeline, a call makes a task and runs nothing.
    with Pipeline("arguments"):
        component(**checked)
    return bound


def _artifact(value: Any, schema: Mapping[str, str]) -> "Artifact":
    """An artifact object with an absolute path, of an artifact object or a path."""
    from kfp.dsl import Artifact
    from kfp.dsl.executor import create_artifact_instance

    if isinstance(value, Artifact):
        artifact = copy.copy(value)
    else:
        artifact = create_artifact_instance({"uri": os.fspath(value), "type": schema})
    artifact.uri = artifact.uri.removeprefix("file://")
    if artifact.uri and "://" not in artifact.uri:
        artifact.uri = os.path.abspath(artifact.uri)
    return artifact
