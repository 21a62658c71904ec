"""The resources of the server, and parsing a path into one."""

import re
from dataclasses import dataclass

TRAINER_GROUP = "trainer.kubeflow.org"

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?)?/?"
)


@dataclass(frozen=True)
class Resource:
    """A kind of object, with the names that the API uses for it."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True

    @property
    def qualified(self) -> str:
        """As messages name it: pods, trainjobs.trainer.kubeflow.org."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


TRAINJOBS = Resource("trainjobs", "TrainJob", TRAINER_GROUP, "v1alpha1")
TRAINING_RUNTIMES = Resource("trainingruntimes", "TrainingRuntime", TRAINER_GROUP, "v1alpha1")
CLUSTER_TRAINING_RUNTIMES = Resource(
    "clustertrainingruntimes", "ClusterTrainingRuntime", TRAINER_GROUP, "v1alpha1", namespaced=False
)
PODS = Resource("pods", "Pod")
EVENTS = Resource("events", "Event")
SECRETS = Resource("secrets", "Secret")
CONFIG_MAPS = Resource("configmaps", "ConfigMap")
CLAIMS = Resource("persistentvolumeclaims", "PersistentVolumeClaim")
JOBS = Resource("jobs", "Job", "batch")
JOBSETS = Resource("jobsets", "JobSet", "jobset.x-k8s.io", "v1alpha2")
WORKFLOWS = Resource("workflows", "Workflow", "argoproj.io", "v1alpha1")
WORKLOADS = Resource("workloads", "Workload", "kueue.x-k8s.io", "v1beta2")

TRAINER_RESOURCES = (TRAINJOBS, TRAINING_RUNTIMES, CLUSTER_TRAINING_RUNTIMES)
RESOURCES = (*TRAINER_RESOURCES, PODS, EVENTS, SECRETS, CONFIG_MAPS, CLAIMS, JOBS, JOBSETS, WORKFLOWS, WORKLOADS)


@dataclass(frozen=True)
class Target:
    """What a path names: a collection, or an object in it, or a subresource of that object."""

    resource: Resource
    namespace: str
    name: str
    subresource: str


def target_of(path: str) -> Target | None:
    """None for a path that names no resource of RESOURCES."""
    match = _PATH.fullmatch(path)
    if not match:
        return None
    for resource in RESOURCES:
        if (resource.plural, resource.group, resource.version) == (
            match["plural"],
            match["group"] or "",
            match["core"] or match["version"],
        ):
            if resource.namespaced and not match["namespace"]:
                # A list across all namespaces; no launcher needs that.
                return Target(resource, "", "", "")
            return Target(resource, match["namespace"] or "", match["name"] or "", match["subresource"] or "")
    return None
