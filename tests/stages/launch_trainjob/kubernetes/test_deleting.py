"""What happens to a TrainJob when its launcher ends, and to one that an earlier launcher left."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from kubernetes.client import CustomObjectsApi

from fakes.kubernetes import ROLE, Cluster, Job, without
from fakes.kubernetes.resources import PODS, TRAINJOBS
from helpers.launching import MOMENT, as_the_launcher, hurried, in_pod_of, told
from helpers.training_configs import training_config
from kfp_osft.shared.files.ownership import OWNER_FILE, Pace, owned
from kfp_osft.shared.processes.termination import Terminated
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.launch_trainjob.kubernetes.connection import connect


def owner_record(workspace: Path) -> Path:
    return workspace / "checkpoints" / "0123456789ab" / OWNER_FILE


def runs_on(job: Job) -> None:
    job.start()
    job.wait_for_deletion()


def terminated_while_it_runs(job: Job) -> None:
    job.start()
    job.wait_for_log_reader()
    os.kill(os.getpid(), signal.SIGTERM)
    job.wait_for_deletion()


def test_a_job_that_is_deleted_is_not_made_anew_and_its_pods_are_waited_for(launch, tmp_path, capsys):
    with Cluster(life=runs_on, termination_seconds=0.3) as cluster:
        with pytest.raises(TrainingError, match="has trained longer"):
            launch(cluster, hurried(time_limit_minutes=MOMENT))
        assert not cluster.trainjobs and not cluster.pods and not cluster.pods_made_anew
        (deletion,) = cluster.asked(verb="delete", resource="trainjobs")
        assert deletion.query["propagationPolicy"] == "Background"
        assert deletion.body["preconditions"]["uid"] == cluster.jobs[0].uid
    lines = told(capsys)
    assert any("is deleted; its pods are terminating: " in line for line in lines)
    assert lines[-1].endswith("is deleted, its pods are gone")
    assert not owner_record(tmp_path).exists()


def test_the_test_clusters_trainer_makes_pods_anew_as_the_real_one_does():
    with Cluster(life=runs_on) as cluster:
        jobs = CustomObjectsApi(cluster.client())
        body = {
            "metadata": {"name": "mine"},
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "spec": {"runtimeRef": {"name": "training-hub"}},
        }
        where = ("trainer.kubeflow.org", "v1alpha1", cluster.namespace, "trainjobs")
        jobs.create_namespaced_custom_object(*where, body)
        cluster.wait_until(lambda: cluster.pods)
        jobs.delete_namespaced_custom_object(*where, "mine", propagation_policy="Foreground")
        cluster.wait_until(lambda: cluster.pods_made_anew == 3)


def test_pods_that_stay_are_named(launch, capsys):
    with Cluster(life=runs_on, termination_seconds=1.5) as cluster:
        with pytest.raises(TrainingError):
            launch(cluster, hurried(time_limit_minutes=MOMENT), deletion=0.3)
        (pod,) = cluster.pods
        assert any(
            line.startswith("Warning: TrainJob")
            and line.endswith(f"is deleted; these pods still exist: {pod['metadata']['name']}")
            for line in told(capsys)
        )


def test_a_new_job_waits_until_no_pod_of_the_one_before_it_is_left(launch, capsys):
    def second(job: Job) -> None:
        assert [pod for pod in job.cluster.pods if pod["metadata"]["labels"]] == []
        job.start()
        job.complete()

    with Cluster(life=[runs_on, second], termination_seconds=1.5) as cluster:
        with pytest.raises(TrainingError):
            launch(cluster, hurried(time_limit_minutes=MOMENT), deletion=0.1)
        assert cluster.pods and not cluster.trainjobs
        launch(cluster, hurried(time_limit_minutes=MOMENT))
    assert any("Waiting until an earlier TrainJob" in line for line in told(capsys))


def test_pods_that_never_end_are_an_error_and_nothing_is_created_beside_them(launch):
    with Cluster(life=runs_on, termination_seconds=30) as cluster:
        config = hurried(time_limit_minutes=MOMENT)
        with pytest.raises(TrainingError):
            launch(cluster, config, deletion=0.1)
        with pytest.raises(InputError, match="and would train in the same folder"):
            launch(cluster, config, deletion=0.3)
        assert len(cluster.jobs) == 1


def test_another_run_waits_until_no_pod_of_a_training_that_ended_is_left(launch, tmp_path, capsys):
    def second(job: Job) -> None:
        assert [pod for pod in job.cluster.pods if pod["metadata"]["labels"]] == []
        job.start()
        job.complete()

    with Cluster(life=[runs_on, second], termination_seconds=1.5) as cluster:
        config = training_config(tmp_path)
        with pytest.raises(TrainingError):
            launch(cluster, hurried(config, time_limit_minutes=MOMENT), deletion=0.1, run_name="one")
        assert cluster.pods and not cluster.trainjobs
        launch(cluster, config, run_name="two")
        assert [job.name[:4] for job in cluster.jobs] == ["one-", "two-"]
    assert any("belongs to TrainJob one-" in line and line.endswith("waiting for it") for line in told(capsys))
    assert not owner_record(tmp_path).exists()


def test_a_job_that_is_being_deleted_is_not_taken_up(launch):
    def second(job: Job) -> None:
        job.start()
        job.complete()

    def first(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        # Somebody deletes it in the foreground: it stays for a while, marked.
        job.cluster.store.delete(TRAINJOBS, job.namespace, job.name, "Foreground")

    with Cluster(life=[first, second], termination_seconds=0.5) as cluster:
        with pytest.raises(TrainingError, match="somebody deleted it"):
            launch(cluster)
        launch(cluster)
        assert len(cluster.jobs) == 2


def test_a_deletion_goes_on_through_an_outage_and_through_403(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        job.cluster.rules = without(ROLE, "trainjobs", "delete")
        os.kill(os.getpid(), signal.SIGTERM)
        job.wait_for_request(verb="delete", resource="trainjobs")
        job.cluster.go_down()
        time.sleep(0.3)
        job.cluster.rules = list(ROLE)
        job.cluster.come_back(dirty=0.3)
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(Terminated):
            launch(cluster, deletion=8)
        assert not cluster.trainjobs
    assert sum("is to be deleted: retrying" in line for line in told(capsys)) == 1


def test_without_the_right_to_delete_the_command_for_it_is_logged(launch, tmp_path, capsys):
    with Cluster(life=runs_on, rules=without(ROLE, "trainjobs", "delete")) as cluster:
        with pytest.raises(TrainingError):
            launch(cluster, hurried(time_limit_minutes=MOMENT), deletion=0.5)
        (job,) = cluster.trainjobs
    # Another run of this training sees by it whose checkpoints they are.
    assert json.loads(owner_record(tmp_path).read_text())["key"] == f"ns/{job['metadata']['name']}"
    assert told(capsys)[-1].endswith(f"Delete it with: kubectl delete trainjob {job['metadata']['name']} -n ns")


def test_nothing_is_logged_about_deleting_what_was_never_created(launch, capsys):
    with Cluster() as cluster, pytest.raises(InputError):
        launch(cluster, training_config(training_runtime="gone"))
    assert not any("delet" in line for line in told(capsys))


# SIGTERM: a second at most, and its log is not read any more.


def test_after_sigterm_the_deletion_is_the_first_request(launch):
    at = []

    def life(job: Job) -> None:
        job.start()
        job.wait_for_log_reader()
        at.append(len(job.cluster.requests))
        os.kill(os.getpid(), signal.SIGTERM)
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(Terminated):
            launch(cluster, poll=30, hurry=30)
        assert cluster.requests[at[0]].verb == "delete"


@pytest.mark.parametrize("wanted", [{"verb": "get", "resource": "trainjobs"}, {"verb": "list", "resource": "pods"}])
def test_a_request_that_hangs_does_not_delay_the_deletion(launch, wanted):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        job.cluster.hang(20, **wanted)
        job.wait_until(lambda: any(one.status is None and one.matches(**wanted) for one in job.cluster.requests))
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)
        job.wait_for_deletion()
        asked.append(time.monotonic())

    asked: list[float] = []
    with Cluster(life=life) as cluster:
        with pytest.raises(Terminated):
            launch(cluster, log=20)
        assert not cluster.trainjobs
    assert asked[1] - asked[0] < 1


def test_sigterm_during_a_wait_that_the_server_asked_for_creates_nothing_any_more(launch):
    with Cluster() as cluster:
        cluster.fail(1, 429, retry_after=3600, verb="create", resource="trainjobs")

        def terminate_when_it_waits() -> None:
            cluster.wait_for_request(verb="create", resource="trainjobs")
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)

        waiting = threading.Thread(target=terminate_when_it_waits)
        waiting.start()
        began = time.monotonic()
        with pytest.raises(Terminated):
            launch(cluster)
        waiting.join()
        assert time.monotonic() - began < 5 and not cluster.jobs


def test_a_log_that_nobody_reads_any_more_does_not_keep_the_job_from_being_deleted(launch, monkeypatch):
    class Gone:
        """The end of a pipe whose reader is dead."""

        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

    def life(job: Job) -> None:
        job.start()
        job.wait_for_log_reader()
        monkeypatch.setattr(sys, "stdout", Gone())
        os.kill(os.getpid(), signal.SIGTERM)
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(Terminated):
            launch(cluster)
        assert not cluster.trainjobs and not cluster.pods


def test_sigterm_in_the_midst_of_a_deletion_does_not_end_it(launch):
    def life(job: Job) -> None:
        job.start()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        cluster.hang(0.5, verb="delete", resource="trainjobs")

        def terminate() -> None:
            cluster.wait_until(lambda: any(one.verb == "delete" for one in cluster.requests))
            os.kill(os.getpid(), signal.SIGTERM)

        waiting = threading.Thread(target=terminate)
        waiting.start()
        with pytest.raises(Terminated):
            launch(cluster, hurried(time_limit_minutes=MOMENT))
        waiting.join()
        cluster.wait_until(lambda: not cluster.trainjobs)


# Two launchers of one task.


def test_a_launcher_that_is_stopped_leaves_the_job_to_another_one_that_follows_it(launch, tmp_path, capsys):
    with ExitStack() as another, Cluster(life=lambda job: life(job)) as cluster:

        def life(job: Job) -> None:
            job.start()
            job.launcher_saw("pods")
            key = f"{cluster.namespace}/{cluster.trainjobs[0]['metadata']['name']}"
            another.enter_context(owned(owner_record(tmp_path), "the same TrainJob", key=key, pace=Pace(0.05, 1)))
            job.launcher_saw("pods", times=10)
            os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Terminated):
            launch(cluster, training_config(tmp_path))
        assert cluster.trainjobs and not cluster.asked(verb="delete")
    assert "is left running: another launcher of this task follows it" in told(capsys)[-1]


# The launcher dies hard.


def test_a_retry_after_the_launchers_pod_was_deleted_follows_the_same_training(launch, monkeypatch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.cluster.delete_launcher_pod()
        job.launcher_saw("pods", times=3)
        job.complete()

    with Cluster(life=life) as cluster:
        as_the_launcher(cluster, monkeypatch)
        launch(cluster)
        assert len(cluster.jobs) == 1 and len(cluster.jobs[0].pods) == 1


def test_a_pod_that_nobody_owns_owns_its_trainjob_itself(launch, monkeypatch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        as_the_launcher(cluster, monkeypatch)
        cluster.store.live(PODS, "ns", cluster.launcher_pod)["metadata"].pop("ownerReferences")
        launch(cluster)
        (owner,) = cluster.trainjobs[0]["metadata"]["ownerReferences"]
        assert owner == {"apiVersion": "v1", "kind": "Pod", "name": cluster.launcher_pod, "uid": cluster.launcher_uid}


def test_a_job_that_has_taken_the_place_of_ours_is_not_deleted(launch, monkeypatch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        name = launch(cluster)
        in_pod_of(cluster, monkeypatch)
        assert connect().delete_trainjob(name, "uid-of-one-before") is False
        assert connect().delete_trainjob("not-there", "uid") is False
        assert cluster.trainjobs
