"""Estimates how large the Workflow of a compiled pipeline grows while it runs, compared with what Argo can store.

KFP passes each task's component, task and container spec to Argo as parameters, and Argo keeps parameters in the
Workflow's status. Measured on KFP 2.16.1 and 2.17.0 with Argo 3.7.14 and 4.0.5, a container spec stands in the
Workflow's spec once, and once each in the driver's input and output and in the inputs of the executor's DAG and pod,
those four again for each further iteration of a loop. Above 1 MiB Argo compresses the nodes (gzip, then base64); if
that does not fit either, the run fails without a message while its pods go on.
"""

import base64
import gzip
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import json_format
from kfp import dsl
from kfp.dsl import pipeline_context, tasks_group

#: Bytes of a Workflow, as it is stored (Argo's maxWorkflowSize).
WORKFLOW_LIMIT = 1 << 20
#: Bytes of one argument of a program (Linux's MAX_ARG_STRLEN, less the final zero).
ARGUMENT_LIMIT = (128 << 10) - 1
#: Share of either limit above which a pipeline is refused, or a warning is given.
MOST = 0.8
# Size of Argo's templates for a KFP pipeline and, in each node, of what is not a parameter: names, times, paths.
_TEMPLATES = 21_000
_NODE = 900
# The launcher's arguments other than the component's spec and the program.
_LAUNCHER = 2_500
# Ids, times, artifact paths: they differ between nodes and so do not compress.
_UNIQUE = 450


class WorkflowSize(NamedTuple):
    """Estimated sizes in bytes.

    Attributes:
        stored: of the Workflow at the end of a run.
        argument: of the largest argument of a program.
    """

    stored: int
    argument: int

    @property
    def share(self) -> float:
        """Share of the limit of Argo or the kernel, whichever is closer."""
        return max(self.stored / WORKFLOW_LIMIT, self.argument / ARGUMENT_LIMIT)

    @property
    def description(self) -> str:
        """Both sizes against their limits, in a sentence."""
        return (
            f"its Workflow would take {self.stored:,} of the {WORKFLOW_LIMIT:,} bytes that Argo can store, and its "
            f"largest argument {self.argument:,} of the {ARGUMENT_LIMIT:,} that Linux accepts; with more than "
            f"{MOST:.0%} of either, a run may fail halfway"
        )


class _Task(NamedTuple):
    """What KFP passes to Argo for one task, as JSON, and its program."""

    component: str
    task: str
    container: str
    settings: str
    program: list[str]


def estimate(documents: Sequence[Mapping[str, Any]], iterations: int = 1) -> WorkflowSize:
    """Estimates the size of the Workflow at its end.

    Args:
        documents: documents of a compiled pipeline's YAML: the pipeline spec, then the platform spec if there is one.
        iterations: how many times each task runs, at least 1, as in a loop around all of them.
    """
    specification, *platform = documents
    return _size([(task, iterations) for task in _tasks(specification, *platform)], _json(specification["root"]))


def estimate_so_far(pipeline: pipeline_context.Pipeline) -> WorkflowSize:
    """Estimates the size of the pipeline that is being defined, with the tasks added so far.

    Iterations of a loop over a list are counted; those of a loop over an output are not known yet.
    """
    found: list[tuple[_Task, int]] = []
    for task in pipeline.tasks.values():
        iterations = math.prod(map(_iterations, _groups_of(task)))
        if task.pipeline_spec:
            found += [(inner, iterations) for inner in _tasks(json_format.MessageToDict(task.pipeline_spec))]
        elif task.container_spec:
            container = task.container_spec
            program = [str(part) for part in (*(container.command or []), *(container.args or []))]
            inputs = _json([*(task.component_spec.inputs or {}), *task.inputs])
            text = _json({"command": program, "image": container.image})
            found.append((_Task(inputs, inputs, text, _json(task.platform_config), program), iterations))
    return _size(found, "")


def _groups_of(task: dsl.PipelineTask) -> Iterator[tasks_group.TasksGroup]:
    group = task.parent_task_group
    while group is not None:
        yield group
        group = group.parent_task_group


def _iterations(group: tasks_group.TasksGroup) -> int:
    items = getattr(getattr(group, "loop_argument", None), "items_or_pipeline_channel", None)
    return len(items) if isinstance(items, list) else 1


def _size(tasks: Sequence[tuple[_Task, int]], root: str) -> WorkflowSize:
    """Size of the Workflow of these tasks, each with the number of times that it runs."""
    chance = random.Random(0)
    parameters: set[str] = set()
    nodes: list[Any] = []
    largest = 0
    # Iteration by iteration, so that repeated text is as far apart for gzip as it is in Argo's map of nodes.
    for iteration in range(max((iterations for _, iterations in tasks), default=0)):
        for task, iterations in tasks:
            if iteration >= iterations:
                continue
            parameters |= {task.component, task.container, task.settings}
            largest = max(largest, len(task.container.encode()), len(task.component.encode()))
            launcher = ["/kfp-launcher/launch", task.component, task.task, "x" * _LAUNCHER]
            patch = _json({"command": launcher, "args": task.program})
            driver = [task.component, task.task, task.container, task.settings, patch]
            nodes += [[_unique(chance), "x" * _NODE, *texts] for texts in (driver, [patch], [patch])]
    status = _json([*nodes, [_unique(chance), root]]).encode()
    head = len(_json(sorted(parameters)).encode()) + len(root.encode()) + _TEMPLATES
    stored = head + len(status)
    # Near the limit a longer status message is enough for Argo to compress: then that form is what has to fit.
    if stored > MOST * WORKFLOW_LIMIT:
        stored = head + len(base64.b64encode(gzip.compress(status, 6)))
    return WorkflowSize(stored, largest)


def _tasks(specification: Mapping[str, Any], platform: Mapping[str, Any] | None = None) -> Iterator[_Task]:
    """Each task that runs a container, in nested pipelines too."""
    kubernetes = (platform or {}).get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
    components, executors = specification["components"], specification["deploymentSpec"]["executors"]
    groups = [specification["root"]]
    while groups:
        for task in groups.pop().get("dag", {}).get("tasks", {}).values():
            component = components[task["componentRef"]["name"]]
            if "dag" in component:
                groups.append(component)
            elif "container" in (executor := executors[component["executorLabel"]]):
                container = executor["container"]
                settings = kubernetes.get("executors", {}).get(component["executorLabel"], {})
                program = [*container.get("command", []), *container.get("args", [])]
                yield _Task(_json(component), _json(task), _json(container), _json(settings), program)


def _unique(chance: random.Random) -> str:
    return chance.randbytes(_UNIQUE).hex()


def _json(value: Any) -> str:
    """JSON as Go writes it: keys sorted, no blanks, and <, > and & escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
