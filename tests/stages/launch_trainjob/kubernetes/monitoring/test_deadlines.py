"""How long a queue, a start and a training may take."""

import pytest

from fakes.kubernetes import Cluster, Job
from helpers.launching import MOMENT, hurried
from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring.deadlines import Deadlines
from kfp_osft.stages.launch_trainjob.kubernetes.timing import Timing


def deadlines(now, **minutes):
    trainjob = {"start_deadline_minutes": 30, "queue_limit_minutes": 0, "time_limit_minutes": 0, **minutes}
    return Deadlines(trainjob, Timing(), lambda: now[0])


def test_the_time_in_a_queue_is_not_the_trainings():
    now = [0.0]
    limited = deadlines(now, time_limit_minutes=10)
    for phase, minutes in (("running", 6), ("queued", 60), ("starting", 1), ("running", 3)):
        for _ in range(minutes):
            assert not limited.overrun(phase, "", False)
            now[0] += 60
    for _ in range(4):
        overrun = limited.overrun("running", "", False)
        now[0] += 60
    assert overrun == "has trained longer than training_time_limit_minutes=10"


def test_a_training_over_its_time_limit_is_ended(launch):
    def life(job: Job) -> None:
        job.start()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError, match="has trained longer than training_time_limit_minutes="):
            launch(cluster, hurried(time_limit_minutes=MOMENT))
        assert not cluster.trainjobs
