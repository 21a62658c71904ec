"""Retries of the stage, and SIGTERM in each phase: which TrainJob is adopted, replaced, deleted."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fakes.kubernetes import Cluster, Job
from helpers.launching import in_pod_of, step, told
from helpers.places import TESTS
from kfp_osft.shared.processes.termination import Terminated
from kfp_osft.shared.reporting.errors import TrainingError

# Retries of the stage.


def test_a_failed_job_of_an_earlier_attempt_is_replaced(launch, capsys):
    def first(job: Job) -> None:
        job.start()
        job.fail()

    def second(job: Job) -> None:
        job.start()
        job.complete()

    with Cluster(life=[first, second]) as cluster:
        with pytest.raises(TrainingError):
            launch(cluster)
        assert len(cluster.trainjobs) == 1
        name = launch(cluster)
        assert [job.name for job in cluster.jobs] == [name, name]
    assert any("failed in an earlier attempt: replacing it" in line for line in told(capsys))


def test_a_complete_job_of_an_earlier_attempt_is_taken_as_it_is(launch):
    created = []
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        first = launch(cluster, before_creation=lambda: created.append(1))
        assert launch(cluster, before_creation=lambda: created.append(1)) == first
        assert len(cluster.jobs) == 1 and created == [1]


def test_another_run_does_not_take_the_trainjob_of_the_first(launch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        assert launch(cluster, run_name="one") != launch(cluster, run_name="two")
        assert len(cluster.jobs) == 2


LAUNCHER = """
import sys
from pathlib import Path
from helpers.launching import train
from helpers.training_configs import training_config, workspace_task_config
from kfp_osft.stages.launch_trainjob.kubernetes import connection
from kfp_osft.stages.launch_trainjob.kubernetes.engine import Task
connection.SERVICE_ACCOUNT, folder = Path(sys.argv[1]), Path(sys.argv[2])
task = Task(sys.argv[3], sys.argv[3], "launch-trainjob", str(folder), workspace_task_config(folder))
cleared = folder / f"cleared-{sys.argv[3]}"
train(connection.connect(), training_config(folder), task, folder / "training.log", cleared.touch)
"""


def test_a_launcher_that_was_killed_is_followed_by_one_that_takes_its_trainjob_up(
    launch, monkeypatch, tmp_path, capsys
):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*step(1))
        job.wait_for_log_reader()
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        job.pod(0).log(*step(2))
        job.wait_for_log_reader()
        job.complete()

    with Cluster(life=life) as cluster:
        in_pod_of(cluster, monkeypatch)
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, cluster.service_account, tmp_path, "run"],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdout=subprocess.DEVNULL,
        )
        launcher.wait()
        launch(cluster)
        assert len(cluster.jobs) == 1 and not cluster.asked(verb="delete", resource="trainjobs")
    lines = told(capsys)
    assert any("exists from an earlier attempt: following it" in line for line in lines)
    assert [line.split(" |")[0] for line in lines if line.startswith("step")] == ["step 1/4", "step 2/4"]


# Two runs of the same training in one workspace.


def launcher_of(cluster, tmp_path, run: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, cluster.service_account, tmp_path, run],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("first_ends", ["well", "killed"])
def test_the_second_of_two_runs_waits_for_the_trainjob_of_the_first(monkeypatch, tmp_path, first_ends):
    seen = []

    def life(job: Job) -> None:
        job.start()
        if job.number == 0:
            launchers.append(launcher_of(job.cluster, tmp_path, "two"))
            line = launchers[1].stdout.readline()
            while "waiting for it" not in line:
                line = launchers[1].stdout.readline()
            seen.append(line)
            if first_ends == "killed":
                launchers[0].kill()
                # The TrainJob lives on, which the second asks the cluster.
                time.sleep(1)
            seen.append((tmp_path / "cleared-two").exists())
        job.complete()

    with Cluster(life=life) as cluster:
        in_pod_of(cluster, monkeypatch)
        launchers = [launcher_of(cluster, tmp_path, "one")]
        codes = [launchers[index].wait(60) for index in (0, 1)]
        one, two = cluster.jobs
    line, cleared = seen
    assert line.startswith(f"{tmp_path / 'checkpoints' / '0123456789ab'} belongs to TrainJob one-")
    assert not cleared and (tmp_path / "cleared-two").exists()
    assert codes == [-signal.SIGKILL if first_ends == "killed" else 0, 0]
    assert one.name != two.name
    for launcher in launchers:
        launcher.stdout.close()


# SIGTERM in each phase.


def asked_to_end(job: Job) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    job.wait_for_deletion()


def queued(job: Job) -> None:
    job.suspend()
    job.launcher_saw("pods")
    asked_to_end(job)


def pending(job: Job) -> None:
    job.create_pods()
    job.launcher_saw("pods")
    asked_to_end(job)


def running(job: Job) -> None:
    job.start()
    job.wait_for_log_reader()
    asked_to_end(job)


@pytest.mark.parametrize("life", [asked_to_end, queued, pending, running])
def test_sigterm_deletes_the_trainjob_and_waits_for_it(launch, capsys, life):
    handler = signal.getsignal(signal.SIGTERM)
    with Cluster(life=life) as cluster:
        with pytest.raises(Terminated) as ended:
            launch(cluster)
        assert not cluster.trainjobs and not cluster.pods
        assert cluster.asked(verb="delete", resource="trainjobs")[0].query["propagationPolicy"] == "Background"
    assert ended.value.code == 143
    assert told(capsys)[-1].endswith("is deleted, its pods are gone")
    assert signal.getsignal(signal.SIGTERM) == handler


def test_sigterm_while_the_trainjob_is_being_created_leaves_none(launch):
    with Cluster(life=lambda job: job.wait_for_deletion()) as cluster:
        cluster.hang(0.3, verb="create", resource="trainjobs")

        def terminate_soon() -> None:
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"import os, signal, sys, time; time.sleep(0.15); os.kill({os.getpid()}, signal.SIGTERM)",
                ]
            )

        with pytest.raises(Terminated):
            launch(cluster, before_creation=terminate_soon)
        time.sleep(0.3)
        assert not cluster.trainjobs


def test_ctrl_c_deletes_the_trainjob(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        os.kill(os.getpid(), signal.SIGINT)
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(KeyboardInterrupt):
            launch(cluster)
        assert not cluster.trainjobs
