"""TrainJobs in a queue of Kueue, and why they wait there."""

import pytest

from fakes.kubernetes import ROLE, SEES_WORKLOADS, Cluster, Job, rule
from helpers.launching import MOMENT, hurried, told
from helpers.training_configs import training_config
from kfp_osft.shared.reporting.errors import TrainingError

QUEUED = {"training_metadata_labels": "kueue.x-k8s.io/queue-name=gpus"}
TOO_LARGE = (
    "couldn't assign flavors to pod set node: insufficient quota for nvidia.com/gpu in flavor a100, previously "
    "considered podsets requests (0) + current podset request (3) > maximum capacity (2)"
)


@pytest.mark.parametrize(
    ("message", "reason", "told_as"),
    [
        (TOO_LARGE, "Pending", "it needs 3 nvidia.com/gpu, but the queue has at most 2 (flavor a100)"),
        ("LocalQueue nope doesn't exist", "Inadmissible", "LocalQueue nope doesn't exist"),
    ],
)
@pytest.mark.parametrize("rights", [[], list(SEES_WORKLOADS)], ids=["events", "workloads"])
def test_what_kueue_can_never_admit_ends_at_the_start_deadline_with_its_words(launch, message, reason, told_as, rights):
    def life(job: Job) -> None:
        job.kueue_says(message, reason)
        job.wait_for_deletion()

    with Cluster(life=life, queued=True, rules=[*ROLE, *rights]) as cluster:
        with pytest.raises(TrainingError) as error:
            launch(cluster, hurried(training_config(**QUEUED), start_deadline_minutes=MOMENT))
        assert not cluster.trainjobs
    assert f"Waiting for quota in the queue gpus: {told_as}" in str(error.value)


def test_kueues_message_about_a_full_queue_is_logged_and_has_no_limit(launch, capsys):
    message = "couldn't assign flavors to pod set node: insufficient unused quota for cpu in flavor a, 1 more needed"

    def life(job: Job) -> None:
        job.kueue_says(message)
        job.sleep(0.8)
        job.resume()
        job.start()
        job.complete()

    with Cluster(life=life, queued=True, rules=[*ROLE, *SEES_WORKLOADS]) as cluster:
        launch(cluster, hurried(training_config(**QUEUED), start_deadline_minutes=MOMENT))
    assert f"Waiting for quota in the queue gpus: {message}" in told(capsys)


def test_a_queue_has_a_limit_where_one_is_given(launch):
    with (
        Cluster(life=lambda job: job.wait_for_deletion(), queued=True) as cluster,
        pytest.raises(TrainingError, match="has waited longer than training_queue_limit_minutes="),
    ):
        launch(cluster, hurried(training_config(**QUEUED), queue_limit_minutes=MOMENT))


def test_a_persons_pause_reads_differently_from_a_queue(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        job.suspend()
        job.launcher_saw("pods", times=8)
        job.resume()
        job.create_pods()
        job.start()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    lines = told(capsys)
    assert any(line.startswith("Paused: somebody has suspended the TrainJob") for line in lines)
    assert not any("quota" in line for line in lines)


def test_the_right_to_see_workloads_is_optional(launch):
    def life(job: Job) -> None:
        job.kueue_says("no quota yet")
        job.sleep(0.3)
        job.resume()
        job.start()
        job.complete()

    rights = [*ROLE, rule("kueue.x-k8s.io", "localqueues", "list")]
    with Cluster(life=life, queued=True, rules=rights) as cluster:
        launch(cluster, training_config(**QUEUED))
        # Asked once, and not again once it was refused.
        assert len(cluster.asked(resource="workloads")) == 1
