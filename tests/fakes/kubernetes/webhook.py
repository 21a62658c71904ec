"""The Trainer's webhooks for a new TrainJob: defaults, and denials in their words."""

import json
from collections.abc import Collection, Iterator
from typing import Any

from fakes.kubernetes.pods import CONTAINER
from fakes.kubernetes.resources import TRAINER_GROUP
from fakes.kubernetes.status import denied_by_webhook
from fakes.kubernetes.store import now

VALIDATOR = "validator.trainjob.trainer.kubeflow.org"

#: Names of environment variables that belong to the torch plugin.
_RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}

_OWN_CONTAINERS = ("dataset-initializer", "model-initializer", CONTAINER)


def default(body: dict[str, Any], *, suspend: bool) -> None:
    """The defaulting webhooks: the Trainer's, for the time of each runtime patch, and Kueue's."""
    if suspend:
        body["spec"]["suspend"] = True
    for patch in body["spec"].get("runtimePatches", ()):
        patch.setdefault("time", now())


def check(body: dict[str, Any], cluster_runtimes: Collection[str], runtimes: Collection[str]) -> None:
    """The validating webhook. Raises ApiError 403 that lists everything wrong."""
    wrong = list(_refusals(body, cluster_runtimes, runtimes))
    if wrong:
        raise denied_by_webhook(VALIDATOR, wrong[0] if len(wrong) == 1 else "[" + ", ".join(wrong) + "]")


def _refusals(body: dict[str, Any], cluster_runtimes: Collection[str], runtimes: Collection[str]) -> Iterator[str]:
    spec = body["spec"]
    reference = spec["runtimeRef"]
    known = {"ClusterTrainingRuntime": cluster_runtimes, "TrainingRuntime": runtimes}
    if reference["kind"] not in known or reference["apiGroup"] != TRAINER_GROUP:
        yield f"unsupported runtime: {reference['kind']}.{reference['apiGroup']}"
        return
    kind, name = reference["kind"], reference["name"]
    if name not in known[kind]:
        field = "spec.RuntimeRef" if kind == "ClusterTrainingRuntime" else "spec.runtimeRef"
        yield (
            f"{field}: Invalid value: {_shown({'name': name, 'apiGroup': TRAINER_GROUP, 'kind': kind})}: "
            f'{kind}.{TRAINER_GROUP} "{name}" not found: specified {kind[0].lower()}{kind[1:]} must be created '
            "before the TrainJob is created"
        )
        return
    yield from _pod_settings(spec)
    trainer = spec.get("trainer", {})
    processes = trainer.get("numProcPerNode")
    if isinstance(processes, str) and processes not in ("auto", "cpu", "gpu"):
        yield (
            f"spec.trainer.numProcPerNode: Invalid value: {_shown(processes)}: must have an int value or [auto cpu gpu]"
        )
    taken = sorted({env["name"] for env in trainer.get("env", ())} & _RESERVED)
    if taken:
        yield (
            f"spec.trainer.env: Invalid value: {_shown(trainer['env'])}: must not have reserved envs, "
            f"invalid envs configured: [{' '.join(taken)}]"
        )


def _pod_settings(spec: dict[str, Any]) -> Iterator[str]:
    """Denials for podTemplateOverrides and runtimePatches: unknown jobs and containers, env of built-in containers."""
    for field, job, pod in pod_settings(spec):
        path = f"spec.{field}: Invalid value: {_shown(spec[field])}: "
        if job != CONTAINER:
            yield path + (
                "must not have targetJob that doesn't exist in the runtime job template"
                if field == "podTemplateOverrides"
                else "must not have replicated job that doesn't exist in the runtime job template"
            )
            continue
        for container in pod.get("containers", ()):
            if container["name"] != CONTAINER:
                yield path + f"must not have container that doesn't exist in the runtime job {job}"
            elif container.get("env"):
                yield path + f"must not have envs for the {', '.join(_OWN_CONTAINERS)} containers"


def pod_settings(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Field, name of the job, and pod spec of each override or patch, in their order."""
    for field, job, template in pod_templates(spec):
        yield field, job, template.get("spec", {})


def pod_templates(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Field, name of the job, and pod template (metadata, spec) of each override or patch, in their order."""
    for override in spec.get("podTemplateOverrides", ()):
        for job in override["targetJobs"]:
            yield "podTemplateOverrides", job["name"], override
    for patch in spec.get("runtimePatches", ()):
        template = patch.get("trainingRuntimeSpec", {}).get("template", {})
        for job in template.get("spec", {}).get("replicatedJobs", ()):
            yield ("runtimePatches", job["name"], job.get("template", {}).get("spec", {}).get("template", {}))


def _shown(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
