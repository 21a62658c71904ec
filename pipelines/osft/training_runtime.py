"""A TrainingRuntime for administrators, made from one that is there: it ends a training that a retry cannot mend.

No field of a TrainJob says how often its pods are started again. With the runtimes as they are installed (six times, in
the same pod) an error of Python's is run seven times, and its pod is deleted with all it said.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import yaml

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.launch_trainjob.train_end import FINAL_EXIT_CODES

KINDS = ("ClusterTrainingRuntime", "TrainingRuntime")
STANDARD_INPUT = "-"
_NODE = "node"
_API_VERSION = "trainer.kubeflow.org/v1alpha1"
# Labels that the Trainer reads. Others tell the operator that the object is its own, which it then takes back.
_KEPT_LABELS = "trainer.kubeflow.org/"
_BACKOFF_LIMIT = 3
_ANY_PYTHON_ERROR = 1


def training_runtime(source: str, name: str, namespace: str = "") -> str:
    """YAML of the runtime.

    Args:
        source: a file with the runtime that is there, "-" for standard input, or its name on the cluster that kubectl
            would ask.
        name: of the new one; empty: that of the other with -osft.
        namespace: of a TrainingRuntime on the cluster; empty: it is a ClusterTrainingRuntime.

    Raises:
        InputError: there is no such runtime, or one that does not train on pods of a JobSet.
    """
    if source == STANDARD_INPUT:
        found = _parsed("standard input", sys.stdin.read())
    elif Path(source).is_file():
        found = _parsed(source, Path(source).read_text(encoding="utf-8"))
    else:
        found = _from_cluster(source, namespace)
    return yaml.safe_dump(with_failure_policy(found, name), sort_keys=False)


def with_failure_policy(runtime: dict[str, Any], name: str = "") -> dict[str, Any]:
    """The runtime under another name, with restartPolicy Never, backoffLimit 3 and a podFailurePolicy.

    A pod that is evicted or preempted is replaced, and not counted; exit code 1 and those with which the training
    script ends for good fail the TrainJob, and its failed pod stays with all it said; anything else is tried three
    times more.

    Raises:
        InputError: what it has is not a runtime with a job "node".
    """
    metadata = runtime.get("metadata") or {}
    if runtime.get("kind") not in KINDS or not metadata.get("name"):
        raise InputError(f"this is a {runtime.get('kind') or 'document without kind'}; allowed: {', '.join(KINDS)}")
    spec = copy.deepcopy(runtime.get("spec") or {})
    jobs = ((spec.get("template") or {}).get("spec") or {}).get("replicatedJobs") or []
    job = next((job for job in jobs if job.get("name") == _NODE), None)
    if job is None:
        raise InputError(f"the runtime {metadata['name']} has no replicated job '{_NODE}', which would train")
    job_spec = job["template"]["spec"]
    job_spec["backoffLimit"] = _BACKOFF_LIMIT
    job_spec["podFailurePolicy"] = {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {
                "action": "FailJob",
                "onExitCodes": {
                    "containerName": _NODE,
                    "operator": "In",
                    "values": sorted([_ANY_PYTHON_ERROR, *FINAL_EXIT_CODES]),
                },
            },
        ]
    }
    # The Job controller looks at exit codes only where the kubelet does not start the container again itself.
    job_spec["template"]["spec"]["restartPolicy"] = "Never"
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key.startswith(_KEPT_LABELS)}
    namespace = {"namespace": metadata["namespace"]} if metadata.get("namespace") else {}
    return {
        "apiVersion": _API_VERSION,
        "kind": runtime["kind"],
        "metadata": {"name": name or f"{metadata['name']}-osft", **namespace, **({"labels": labels} if labels else {})},
        "spec": spec,
    }


def _parsed(source: str, text: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise InputError(f"{source} does not hold one object; allowed: one of {', '.join(KINDS)}")
    return document


def _from_cluster(name: str, namespace: str) -> dict[str, Any]:
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    try:
        config.load_config()
        api = client.CustomObjectsApi()
        group, version = _API_VERSION.split("/")
        if namespace:
            return api.get_namespaced_custom_object(group, version, namespace, "trainingruntimes", name)
        return api.get_cluster_custom_object(group, version, "clustertrainingruntimes", name)
    except config.ConfigException:
        raise InputError(f"{name} is not a file, and there is no kubeconfig to ask a cluster with") from None
    except client.ApiException as error:
        raise InputError(
            f"{name} is not a file, and the cluster answers {error.status} ({error.reason}) for this runtime"
        ) from None
    except HTTPError as error:
        raise InputError(f"{name} is not a file, and the cluster does not answer: {error}") from None
