import pytest

from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.state import (
    COMPLETE,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    STARTING,
    current_pods,
    read_state,
)

UNSCHEDULABLE = [
    {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
]


def job(nodes=1, labels=None, **condition):
    return {
        "metadata": {"name": "job", "uid": "1", "labels": labels or {}},
        "spec": {"trainer": {"numNodes": nodes}},
        "status": {"conditions": [{"status": "True", **condition}] if condition else []},
    }


def pod(index=0, waiting=None, running=False, conditions=None, init_waiting=None, restarts=0):
    state = {"running": {}} if running else {"waiting": waiting} if waiting else {}
    status = {"phase": "Running" if running else "Pending", "conditions": conditions or []}
    if state:
        status["containerStatuses"] = [{"name": "node", "state": state, "restartCount": restarts}]
    if init_waiting:
        status["initContainerStatuses"] = [{"name": "init", "state": {"waiting": init_waiting}}]
    return {"metadata": {"name": f"job-node-0-{index}"}, "spec": {}, "status": status}


def event(reason, message="", about="job-node-0-0"):
    return {"reason": reason, "message": message, "involvedObject": {"name": about}}


CREATING = {"reason": "ContainerCreating"}


@pytest.mark.parametrize(
    ("job_", "pods", "events", "phase", "sentence"),
    [
        (job(), [], [], STARTING, "Pending: the pods are being created"),
        (
            job(type="Suspended", reason="Suspended", message="no quota", labels={"kueue.x-k8s.io/queue-name": "gpus"}),
            [],
            [],
            QUEUED,
            "Waiting for quota in the queue gpus: no quota",
        ),
        (
            job(type="Suspended", reason="Suspended", message="TrainJob is suspended"),
            [],
            [],
            PAUSED,
            "Paused: somebody has suspended the TrainJob (TrainJob is suspended)",
        ),
        (
            job(),
            [pod(conditions=UNSCHEDULABLE)],
            [],
            STARTING,
            "Pending: job-node-0-0 is not scheduled (Unschedulable): 0/3 nodes are available: 3 Insufficient "
            "nvidia.com/gpu.",
        ),
        (job(), [pod(waiting=CREATING)], [], STARTING, "Pending: job-node-0-0 is starting"),
        (
            job(),
            [pod(waiting=CREATING)],
            [event("Scheduled"), event("Pulling")],
            STARTING,
            "Pending: job-node-0-0 is pulling its image",
        ),
        (
            job(),
            [pod(waiting=CREATING)],
            [event("Pulling"), event("Pulled")],
            STARTING,
            "Pending: job-node-0-0 is starting",
        ),
        (job(), [pod(running=True)], [], RUNNING, "Running: 1 of 1 node"),
        (job(nodes=2), [pod(running=True), pod(1, running=True)], [], RUNNING, "Running: 2 of 2 nodes"),
        (
            job(nodes=2),
            [pod(running=True), pod(1, conditions=UNSCHEDULABLE)],
            [],
            STARTING,
            "1 of 2 nodes are running. Pending: job-node-0-1 is not scheduled (Unschedulable): 0/3 nodes are "
            "available: 3 Insufficient nvidia.com/gpu.",
        ),
        (
            job(),
            [pod(waiting={"reason": "CrashLoopBackOff"}, restarts=3)],
            [],
            STARTING,
            "job-node-0-0 failed and is being restarted (3 restarts so far)",
        ),
        (job(type="Complete"), [], [], COMPLETE, "Complete"),
        (job(type="Failed", reason="FailedJobs", message="jobset failed"), [], [], FAILED, "FailedJobs: jobset failed"),
        # Kueue: resumed is Suspended False, which is no condition that holds.
        (
            job(type="Suspended", status="False", reason="Resumed"),
            [pod(running=True)],
            [],
            RUNNING,
            "Running: 1 of 1 node",
        ),
    ],
)
def test_a_state_is_one_line(job_, pods, events, phase, sentence):
    state = read_state(job_, pods, events, job_["spec"]["trainer"]["numNodes"])
    assert (state.phase, state.sentence, state.trouble) == (phase, sentence, "")


@pytest.mark.parametrize(
    ("pods", "events", "trouble"),
    [
        (
            [pod(waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling image x"})],
            [],
            "ImagePullBackOff: Back-off pulling image x",
        ),
        (
            [pod(waiting=CREATING, init_waiting={"reason": "ErrImagePull", "message": "not found"})],
            [],
            "ErrImagePull: not found",
        ),
        (
            [pod(waiting={"reason": "CreateContainerConfigError", "message": 'secret "a" not found'})],
            [],
            'CreateContainerConfigError: secret "a" not found',
        ),
        ([pod(waiting=CREATING)], [event("FailedMount", "claim not found")], "FailedMount: claim not found"),
        ([], [event("FailedCreate", "exceeded quota", about="job-node-0")], "FailedCreate: exceeded quota"),
        (
            [],
            [event("TrainJobResourcesCreationFailed", "bad patch", about="job")],
            "TrainJobResourcesCreationFailed: bad patch",
        ),
    ],
)
def test_what_rarely_resolves_by_itself_is_trouble(pods, events, trouble):
    state = read_state(job(), pods, events)
    assert (state.phase, state.trouble) == (STARTING, trouble)
    assert state.sentence.endswith(f": {trouble}")


def test_trouble_of_one_pod_is_reported_before_another_pod_that_only_waits():
    pods = [pod(conditions=UNSCHEDULABLE), pod(1, waiting={"reason": "ErrImagePull", "message": "not found"})]
    assert (
        read_state(job(nodes=2), pods, [], 2).sentence == "Pending: job-node-0-1 cannot start: ErrImagePull: not found"
    )


@pytest.mark.parametrize("later", ["Pulling", "Pulled", "Created", "Started", "SuccessfulAttachVolume"])
def test_what_came_after_a_failed_mount_outweighs_it(later):
    events = [event("FailedMount", "the server is busy"), event(later)]
    assert not read_state(job(), [pod(waiting=CREATING)], events).trouble


def test_pods_that_were_created_after_all_outweigh_that_they_could_not_be():
    events = [event("FailedCreate", "quota", about="job-node-0"), event("SuccessfulCreate", about="job-node-0")]
    assert not read_state(job(nodes=2), [pod(waiting=CREATING)], events, 2).trouble


def test_of_the_pods_of_a_node_the_newest_counts():
    def at(second, name, **fields):
        body = pod(**fields)
        labels = {"batch.kubernetes.io/job-completion-index": "0"}
        body["metadata"] |= {"name": name, "labels": labels, "creationTimestamp": f"2026-11-26T07:00:0{second}Z"}
        return body

    evicted, replacement = at(1, "job-node-0-0-zzzzz"), at(2, "job-node-0-0-aaaaa", running=True)
    evicted["status"] |= {"phase": "Failed", "reason": "Evicted"}
    for pods in ([evicted, replacement], [replacement, evicted]):
        assert current_pods(pods) == [replacement]
        assert read_state(job(), pods).phase == RUNNING


@pytest.mark.parametrize(
    ("reason", "running", "phase"),
    [("FailedJobs", True, FAILED), ("JobSetUpdateFailed", True, RUNNING), ("JobSetUpdateFailed", False, FAILED)],
)
def test_only_an_end_of_its_jobs_is_the_end_while_its_pods_run(reason, running, phase):
    assert read_state(job(type="Failed", reason=reason), [pod(running=True)] if running else []).phase == phase
