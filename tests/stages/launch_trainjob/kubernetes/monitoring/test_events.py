"""What the events about a TrainJob and its pods add to its state."""

import pytest

from fakes.kubernetes import Cluster, Job
from helpers.launching import told
from kfp_osft.shared.reporting.errors import TrainingError


def test_a_mount_that_has_mended_is_no_trouble(launch):
    def life(job: Job) -> None:
        job.create_pods()
        job.pod(0).scheduled()
        job.pod(0).event("Warning", "FailedMount", "MountVolume.SetUp failed: the server is busy")
        job.sleep(1.1)
        job.pod(0).pulling()
        job.sleep(1)
        job.start()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster, trouble=1.6)


def test_events_of_an_earlier_trainjob_are_not_reported_for_the_new_one(launch, capsys):
    def first(job: Job) -> None:
        job.event("Warning", "TrainJobResourcesCreationFailed", "of the one before")
        job.fail()

    def second(job: Job) -> None:
        job.launcher_saw("events", times=3)
        job.start()
        job.complete()

    with Cluster(life=[first, second]) as cluster:
        with pytest.raises(TrainingError):
            launch(cluster)
        told(capsys)
        launch(cluster, trouble=0)
    assert not any("of the one before" in line for line in told(capsys))


def test_pods_that_cannot_be_created_are_reported_once_and_without_the_script(launch, capsys):
    def life(job: Job) -> None:
        for suffix in ("abcde", "fghij", "klmno"):
            pod = f"{job.kubernetes_job}-0-{suffix}"
            script = "import os\\n" * 500
            job.event(
                "Warning",
                "FailedCreate",
                f'Error creating: Pod "{pod}" is invalid: spec.containers[0].command: Invalid value: "{script}"',
                on="Job",
            )
            job.launcher_saw("events", times=4)
        job.start()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster, trouble=30)
    (line,) = [line for line in told(capsys) if "FailedCreate" in line]
    assert "import os" not in line and len(line) < 300
