"""A Kubernetes API server with the Kubeflow Trainer, for tests: real sockets, TLS, RBAC, logs, scripted lives.

    from fakes.kubernetes import Cluster, Job

    def straight_success(job: Job) -> None:
        job.start()
        job.pod(0).log("step 1 of 2", "step 2 of 2")
        job.complete()

    with Cluster(trainer="2.3", life=straight_success) as cluster:
        ...

http_server has the bytes, api the answers, rbac the rights, schema, validation and webhook what an object may hold,
store the objects, lives and pods what a life can do, faults what can go wrong, processes a life that runs the command.

What differs from the real ones (a kube-apiserver 1.36 with Trainer, JobSet, Job controller, kubelet and Kueue):

- There are no watches, no PATCH and PUT, no resourceVersion that is checked, no paging, no WebSockets.
- A life plays all controllers. It can wait for the launcher, which the real ones never do: what hides when somebody
  waits is tested by lives that do not (Job.use_up_retries, Pod.delete, Job.expire, and sleeping).
- The garbage collector takes termination_seconds for each pod, at the same time; the real one goes object by object.
- A TrainJob that is deleted in the foreground has its pods made anew `foreground_remakes` times (3); the real Trainer
  did it 1 to 100 times, as its race with the garbage collector went.
- Validated is what launchers of ours can get wrong: the TrainJob's CRD, names, labels, annotations, Secret keys,
  selectors, the propagation policy, log options. Pods are made by lives, and not validated but for their volumes.
- After come_back(dirty=...) come 403 for all and then 404 pages for the Trainer's group, half of the time each; the
  real one is through with it within a second, in an order of its own.
- Kueue's Workload is written by the life (Job.kueue_says); its webhook only suspends. Progress is not polled.
- One namespace. RBAC knows verbs and resources, no resourceNames.
"""

from fakes.kubernetes.cluster import Cluster, Life
from fakes.kubernetes.lives import Job, JobGone
from fakes.kubernetes.pods import Pod
from fakes.kubernetes.processes import run_as_processes
from fakes.kubernetes.rbac import ROLE, SEES_RUNTIMES, SEES_WORKLOADS, rule, without
from fakes.kubernetes.recorded import Request

__all__ = [
    "ROLE",
    "SEES_RUNTIMES",
    "SEES_WORKLOADS",
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
