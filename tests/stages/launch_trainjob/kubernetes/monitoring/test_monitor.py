"""TrainJobs that do not start, and that somebody edits or deletes."""

import pytest

from fakes.kubernetes import Cluster, Job
from helpers.launching import MOMENT, hurried, told, verbs
from kfp_osft.shared.reporting.errors import TrainingError

# TrainJobs that do not start.


def test_an_unschedulable_job_ends_at_the_start_deadline_with_the_schedulers_words(launch, capsys):
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."

    def life(job: Job) -> None:
        job.create_pods()
        job.pod(0).unschedulable(words)
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError) as error:
            launch(cluster, hurried(start_deadline_minutes=MOMENT))
        assert verbs(cluster)[-2:] == ["get", "delete"]
        assert not cluster.trainjobs
    assert "has not started within training_start_deadline_minutes=" in str(error.value)
    assert words in str(error.value)
    assert any(words in line for line in told(capsys))


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError"])
def test_a_container_that_cannot_start_ends_the_job_with_the_kubelets_reason(launch, reason):
    def life(job: Job) -> None:
        job.create_pods()
        job.pod(0).scheduled()
        job.pod(0).waiting(reason, "what the kubelet says")
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError, match=f"cannot start. Pending: .*: {reason}: what the kubelet says"):
            launch(cluster)
        assert not cluster.trainjobs


def test_an_image_that_can_be_pulled_at_the_second_attempt_is_waited_for(launch, capsys):
    def life(job: Job) -> None:
        job.create_pods()
        job.pod(0).scheduled()
        job.pod(0).waiting("ErrImagePull", "429 Too Many Requests")
        job.launcher_saw("events", times=3)
        job.start()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    assert any("ErrImagePull: 429 Too Many Requests" in line for line in told(capsys))


@pytest.mark.parametrize(("reason", "on"), [("FailedCreate", "Job"), ("TrainJobResourcesCreationFailed", "TrainJob")])
def test_pods_that_cannot_be_made_end_the_job_with_the_events_words(launch, reason, on):
    def life(job: Job) -> None:
        job.event("Warning", reason, "exceeded quota: gpus", on=on)
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError, match=f"cannot start. .*{reason}: exceeded quota: gpus"):
            launch(cluster)
        assert not cluster.trainjobs


# What somebody does to it.


def test_a_node_count_that_somebody_edits_does_not_end_the_training(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        with job._store.changed:
            job._live()["spec"]["trainer"]["numNodes"] = 2
        job.event("Warning", "TrainJobResourcesCreationFailed", "replicatedJobs: Invalid value: field is immutable")
        job._set_condition("Failed", "True", "TrainJobResourcesCreationFailed", "field is immutable")
        job.sleep(0.8)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster, hurried(start_deadline_minutes=MOMENT))
    assert any(line.startswith("Running, although the TrainJob reports") for line in told(capsys))


def test_a_job_that_is_removed_right_after_it_completed_is_complete(launch, tmp_path):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        (tmp_path / "checkpoints" / "0123456789ab" / "training_complete.json").write_text("{}")
        job.expire()

    with Cluster(life=life) as cluster:
        launch(cluster)


def test_a_job_that_somebody_deleted_is_reported_as_deleted(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.delete_by_somebody()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError, match="is gone: somebody deleted it during the training"):
            launch(cluster)
        assert not cluster.asked(verb="delete", resource="trainjobs")
