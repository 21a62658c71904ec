"""How large the Workflow of a compiled pipeline gets while it runs, against what Argo can keep.

KFP hands each task's component, task and container spec to Argo as parameters, and Argo keeps parameters in the
Workflow's status. Measured on KFP 2.16.1 and 2.17.0 with Argo 3.7.14 and 4.0.5, a container spec stands in the
Workflow's spec once, and once each in the driver's input and output and in the inputs of the executor's DAG and pod,
those four again for each further iteration of a loop. Above 1 MiB Argo compresses the nodes (gzip, then base64); if
that does not fit either, the run fails without a message while its pods go on.
"""

import base64
import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

#: Bytes of a Workflow, as it is stored (Argo's maxWorkflowSize).
WORKFLOW_LIMIT = 1 << 20
#: Bytes of one argument of a program (Linux's MAX_ARG_STRLEN, less the final zero).
ARGUMENT_LIMIT = (128 << 10) - 1
# What Argo's templates for a KFP pipeline take, and, in each node, what is not a parameter: names, times, paths.
_TEMPLATES = 15_000
_NODE = 900
# Ids, times, paths of artifacts: what makes each node different, and so does not compress.
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
        """Of what Argo or the kernel takes, whichever is nearer to its limit."""
        return max(self.stored / WORKFLOW_LIMIT, self.argument / ARGUMENT_LIMIT)


def estimate(documents: Sequence[Mapping[str, Any]], iterations: int = 1) -> WorkflowSize:
    """Estimates the size of the Workflow at its end.

    Args:
        documents: of a compiled pipeline's YAML: the pipeline spec, then the platform spec where there is one.
        iterations: how many times each task runs, at least 1: those of a loop around all of them.
    """
    specification = documents[0]
    platform = documents[1] if len(documents) > 1 else {}
    kubernetes = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    chance = random.Random(0)
    parameters: set[str] = set()
    nodes: list[Any] = []
    largest = 0
    for task, component, container in _tasks(specification):
        component_text, task_text, container_text = _json(component), _json(task), _json(container)
        settings = _json(kubernetes.get(component["executorLabel"], {}))
        parameters |= {component_text, container_text, settings}
        patch = _json(
            {
                "command": ["/kfp-launcher/launch", component_text],
                "args": [*container.get("command", []), *container.get("args", [])],
            }
        )
        largest = max(largest, len(container_text.encode()), len(component_text.encode()))
        for _ in range(iterations):
            driver = [component_text, task_text, container_text, settings, patch]
            nodes += [[_unique(chance), "x" * _NODE, *texts] for texts in (driver, [patch], [patch])]
    root = _json(specification["root"])
    status = _json([*nodes, [_unique(chance), root]]).encode()
    head = len(_json(sorted(parameters)).encode()) + len(root.encode()) + _TEMPLATES
    stored = head + len(status)
    if stored > WORKFLOW_LIMIT:
        stored = head + len(base64.b64encode(gzip.compress(status, 6)))
    return WorkflowSize(stored, largest)


def _tasks(specification: Mapping[str, Any]) -> Iterator[tuple[dict, dict, dict]]:
    """Task, component and container spec of each task that runs a container, in nested pipelines too."""
    components, executors = specification["components"], specification["deploymentSpec"]["executors"]
    groups = [specification["root"]]
    while groups:
        for task in groups.pop().get("dag", {}).get("tasks", {}).values():
            component = components[task["componentRef"]["name"]]
            if "dag" in component:
                groups.append(component)
            elif "container" in (executor := executors[component["executorLabel"]]):
                yield task, component, executor["container"]


def _unique(chance: random.Random) -> str:
    return chance.randbytes(_UNIQUE).hex()


def _json(value: Any) -> str:
    """JSON as Go writes it: keys sorted, no blanks, and <, > and & escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
