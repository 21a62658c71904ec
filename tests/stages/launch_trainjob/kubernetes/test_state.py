import pytest

from kfp_osft.stages.launch_trainjob.kubernetes.state import COMPLETE, FAILED, QUEUED, RUNNING, STARTING, read_state

UNSCHEDULABLE = [
    {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
]


def job(nodes=1, **condition):
    return {
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
            job(type="Suspended", reason="Suspended", message="no quota"),
            [],
            [],
            QUEUED,
            "Waiting for quota: the TrainJob is suspended (no quota)",
        ),
        (
            job(),
            [pod(conditions=UNSCHEDULABLE)],
            [],
            STARTING,
            "Pending: job-node-0-0 is not scheduled (Unschedulable): 0/3 nodes are available: 3 Insufficient "
            "nvidia.com/gpu.",
        ),
        (job(), [pod(waiting=CREATING)], [], STARTING, "Pending: job-node-0-0 starts"),
        (
            job(),
            [pod(waiting=CREATING)],
            [event("Scheduled"), event("Pulling")],
            STARTING,
            "Pending: job-node-0-0 pulls its image",
        ),
        (job(), [pod(waiting=CREATING)], [event("Pulling"), event("Pulled")], STARTING, "Pending: job-node-0-0 starts"),
        (job(), [pod(running=True)], [], RUNNING, "Running: 1 of 1 node"),
        (job(nodes=2), [pod(running=True), pod(1, running=True)], [], RUNNING, "Running: 2 of 2 nodes"),
        (
            job(nodes=2),
            [pod(running=True), pod(1, conditions=UNSCHEDULABLE)],
            [],
            STARTING,
            "1 of 2 nodes run. Pending: job-node-0-1 is not scheduled (Unschedulable): 0/3 nodes are available: 3 "
            "Insufficient nvidia.com/gpu.",
        ),
        (
            job(),
            [pod(waiting={"reason": "CrashLoopBackOff"}, restarts=3)],
            [],
            STARTING,
            "job-node-0-0 failed and is started again (3 restarts so far)",
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
    state = read_state(job_, pods, events)
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
def test_what_hardly_mends_by_itself_is_trouble(pods, events, trouble):
    state = read_state(job(), pods, events)
    assert (state.phase, state.trouble) == (STARTING, trouble)
    assert state.sentence.endswith(f": {trouble}")


def test_trouble_of_one_pod_is_told_before_the_patience_of_another():
    pods = [pod(conditions=UNSCHEDULABLE), pod(1, waiting={"reason": "ErrImagePull", "message": "not found"})]
    assert read_state(job(nodes=2), pods, []).sentence == "Pending: job-node-0-1 cannot start: ErrImagePull: not found"
