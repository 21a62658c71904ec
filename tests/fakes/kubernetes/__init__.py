"""A Kubernetes API server with the Kubeflow Trainer, for tests: real sockets, TLS, RBAC, logs, scripted lives.

    from fakes.kubernetes import Cluster, Job

    def straight_success(job: Job) -> None:
        job.start()
        job.pod(0).log("step 1 of 2", "step 2 of 2")
        job.complete()

    with Cluster(trainer="2.3", life=straight_success) as cluster:
        ...

http_server has the bytes, api the answers, rbac the rights, schema and webhook what a TrainJob may hold, store the
objects, lives and pods what a life can do, faults what can go wrong, processes a life that runs the command.
"""

from fakes.kubernetes.cluster import Cluster, Life
from fakes.kubernetes.lives import Job, JobGone
from fakes.kubernetes.pods import Pod
from fakes.kubernetes.processes import run_as_processes
from fakes.kubernetes.rbac import ROLE, SEES_RUNTIMES, rule, without
from fakes.kubernetes.recorded import Request

__all__ = [
    "ROLE",
    "SEES_RUNTIMES",
    "Cluster",
    "Job",
    "JobGone",
    "Life",
    "Pod",
    "Request",
    "rule",
    "run_as_processes",
    "without",
]
