"""A training runtime for administrators, made from an existing one: it stops at errors that a retry would only repeat.

No field of a TrainJob limits how often its pods are restarted. The runtimes as installed restart a container six times
in the same pod, so a Python error occurs seven times, and then the pod is deleted together with its log.
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
# Labels that the Trainer reads. With the others, an operator would take the object for its own and revert it.
_KEPT_LABELS = "trainer.kubeflow.org/"
_BACKOFF_LIMIT = 3
_ANY_PYTHON_ERROR = 1


def training_runtime(source: str, name: str, namespace: str = "") -> str:
    """YAML of the runtime.

    Args:
        source: a file with the existing runtime, "-" for standard input, or its name on the cluster of the kubeconfig.
        name: name of the new runtime; empty: the existing name with -osft.
        namespace: namespace of a TrainingRuntime on the cluster; empty: source is a ClusterTrainingRuntime.

    Raises:
        InputError: there is no such runtime, or it does not train on pods of a JobSet.
    """
    if source == STANDARD_INPUT:
        found = _parsed("standard input", sys.stdin.read())
    elif Path(source).is_file():
        found = _parsed(source, Path(source).read_text(encoding="utf-8", errors="replace"))
    else:
        found = _from_cluster(source, namespace)
    return yaml.safe_dump(with_failure_policy(found, name), sort_keys=False)


def with_failure_policy(runtime: dict[str, Any], name: str = "") -> dict[str, Any]:
    """The runtime under another name, with restartPolicy Never, backoffLimit 3 and a podFailurePolicy.

    Pods that are evicted or preempted are replaced without counting against the limit. Exit code 1, and the codes with
    which the training script gives up, fail the TrainJob and keep its failed pod with the log. After any other exit
    code the pod is retried, three times in all.

    Raises:
        InputError: it is not a training runtime with a replicated job "node".
    """
    metadata = runtime.get("metadata") or {}
    if runtime.get("kind") not in KINDS or not metadata.get("name"):
        raise InputError(f"this is a {runtime.get('kind') or 'document without kind'}; allowed: {', '.join(KINDS)}")
    spec = copy.deepcopy(runtime.get("spec") or {})
    jobs = ((spec.get("template") or {}).get("spec") or {}).get("replicatedJobs") or []
    job = next((job for job in jobs if job.get("name") == _NODE), None)
    if job is None:
        raise InputError(f"the runtime {metadata['name']} has no replicated job '{_NODE}' to train in")
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
    # The Job controller looks at exit codes only if the kubelet does not restart the container itself.
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
    except RecursionError:
        raise InputError(f"{source} holds YAML that is nested too deeply") from None
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
            found: Any = api.get_namespaced_custom_object(group, version, namespace, "trainingruntimes", name)
        else:
            found = api.get_cluster_custom_object(group, version, "clustertrainingruntimes", name)
        return found
    except config.ConfigException:
        raise InputError(f"{name} is not a file, and no kubeconfig was found to reach a cluster") from None
    except client.ApiException as error:
        raise InputError(
            f"{name} is not a file, and the cluster answers {error.status} ({error.reason}) for a runtime of this name"
        ) from None
    except HTTPError as error:
        raise InputError(f"{name} is not a file, and the cluster does not answer: {error}") from None
