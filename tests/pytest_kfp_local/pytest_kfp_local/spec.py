"""Makes of a pipeline spec (KFP's IR) one that kfp.local can run and whose tasks are recorded."""

import copy
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

#: Runs a task's command in an empty folder below $0; leaves its output in `log`, its exit code in `exit`.
RECORDER = (
    'mkdir -p "$0" && cd "$(mktemp -d "$0/XXXXXX")" && mkdir cwd && '
    '{ (cd cwd && exec "$@"); echo $? >exit; } 2>&1 | tee log; exit "$(cat exit)"'
)


def runnable_spec(spec: dict[str, Any], given: Collection[str], records: Path, pip: bool) -> dict[str, Any]:
    """Changes a pipeline spec for a run, and returns it.

    An optional input that is left out and has no default goes from the spec, as KFP's backend leaves it out;
    one that has a default gets it where it is called. kfp.local fails at the former, or takes the value of an
    input of the calling pipeline that happens to have the same name.

    Args:
        spec: the PipelineSpec message as a dict.
        given: names of the run's arguments.
        records: folder for what the tasks print.
        pip: the components' own pip install commands stay.
    """
    root = spec["root"]
    for definitions in root.get("inputDefinitions", {}).values():
        for name, definition in list(definitions.items()):
            if name not in given and "defaultValue" not in definition:
                del definitions[name]
    components, spec["components"] = spec["components"], {}
    executors, spec["deploymentSpec"]["executors"] = spec["deploymentSpec"]["executors"], {}

    def add_tasks(group: dict, path: str) -> None:
        # Each task gets a component and an executor of its own, named by the task's path.
        defined = {name for definitions in group.get("inputDefinitions", {}).values() for name in definitions}
        for name, task in group["dag"]["tasks"].items():
            label = f"{path}{name}"
            component = copy.deepcopy(components[task["componentRef"]["name"]])
            _settle_inputs(task, component, defined)
            task["componentRef"]["name"] = f"comp-{label}"
            spec["components"][f"comp-{label}"] = component
            if "dag" in component:
                add_tasks(component, f"{label}/")
                continue
            executor = copy.deepcopy(executors[component["executorLabel"]])
            component["executorLabel"] = label
            spec["deploymentSpec"]["executors"][label] = executor
            if container := executor.get("container"):
                container["command"] = _recorded(container.get("command", []), records / label, pip)

    add_tasks(root, "")
    return spec


def _settle_inputs(task: dict, component: dict, defined: Collection[str]) -> None:
    """Takes from a task what its pipeline was not given, fills in defaults, drops inputs without a value."""
    items = {task.get(iterator, {}).get("itemInput") for iterator in ("parameterIterator", "artifactIterator")}
    for kind, reference in (("parameters", "componentInputParameter"), ("artifacts", "componentInputArtifact")):
        inputs = task.setdefault("inputs", {}).setdefault(kind, {})
        definitions = component.get("inputDefinitions", {}).get(kind, {})
        for name, source in list(inputs.items()):
            if reference in source and source[reference] not in defined:
                del inputs[name]
        for name in definitions.keys() - inputs.keys() - items:
            if "defaultValue" in definitions[name]:
                inputs[name] = {"runtimeValue": {"constant": definitions[name]["defaultValue"]}}
            else:
                del definitions[name]


def _recorded(command: list[str], record: Path, pip: bool) -> list[str]:
    """The command of a lightweight Python component with RECORDER before it, and without its pip install."""
    if command[:1] != ["sh"] or not any("kfp.dsl.executor_main" in part for part in command):
        # kfp.local says why it cannot run it.
        return command
    installs = "pip install" in command[2] and command[2].rstrip().endswith('&& "$0" "$@"')
    if installs and not pip:
        command = command[3:]
    # kfp.local would replace python3 in the arguments too. The last part is the component's program.
    *shell, program = command
    return [
        "sh",
        "-c",
        RECORDER,
        str(record),
        *(part.replace("python3", shlex.quote(sys.executable)) for part in shell),
        program,
    ]
