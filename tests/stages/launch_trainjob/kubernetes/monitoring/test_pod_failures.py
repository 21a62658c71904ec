"""Pods that fail, are replaced or removed: what is named as the cause, and what ends the training at once."""

import pytest

from fakes.kubernetes import Cluster, Job
from fakes.kubernetes.resources import PODS
from helpers.launching import step, told
from helpers.training_configs import training_config
from kfp_osft.shared.reporting.errors import TrainingError

TRACEBACK = ("Traceback (most recent call last):", '  File "train.py", line 1', "RuntimeError: the real cause")


# Causes.


def test_out_of_host_memory_is_reported_with_pod_lines_and_what_to_raise(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("loading the model", "computing the decomposition")
        job.wait_for_log_reader()
        job.pod(0).terminate(137, "OOMKilled")
        job.pod(0).restart()
        job.launcher_saw("pods", times=2)
        job.pod(0).log("loading the model again")
        job.wait_for_log_reader()
        job.pod(0).terminate(137, "OOMKilled")
        job.launcher_saw("pods", times=2)
        job.fail()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError) as error:
            launch(cluster)
        # It holds nothing any more, and people look for it.
        assert cluster.trainjobs and not cluster.asked(verb="delete")
    message = str(error.value)
    assert "ended with exit code 137 (OOMKilled)" in message
    assert "2 terminations of pods in all" in message
    assert "  loading the model again" in message
    assert "raise training_resource_memory_per_worker (now 32Gi)" in message
    assert sum("(OOMKilled)" in line for line in told(capsys)) == 2


def test_out_of_gpu_memory_names_the_parameters_to_lower(launch):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        job.pod(0).terminate(1)
        job.launcher_saw("pods", times=2)
        job.fail()

    with (
        Cluster(life=life) as cluster,
        pytest.raises(TrainingError, match=r"lower training_max_tokens_per_gpu \(now 64000\)"),
    ):
        launch(cluster)


def test_a_failed_pod_that_is_gone_keeps_its_cause_and_its_last_lines(launch):
    def life(job: Job) -> None:
        job.start()
        job.pod(1).log("Traceback (most recent call last):", "ValueError: of the second node")
        job.pod(1).terminate(1)
        job.launcher_saw("pods", times=2)
        for pod in job.pods:
            pod.delete()
        job.launcher_saw("pods", times=2)
        job.fail()

    with Cluster(life=life) as cluster, pytest.raises(TrainingError) as error:
        launch(cluster, training_config(training_resource_num_workers=2))
    assert "-node-0-1-" in str(error.value) and "exit code 1 (Error)" in str(error.value)
    assert "  ValueError: of the second node" in str(error.value)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (
            lambda pod: pod.evict("The node was low on resource: ephemeral-storage."),
            r"\(Evicted\): The node was low on resource: ephemeral-storage.",
        ),
        (lambda pod: pod.delete(), "is gone: it was deleted before its termination was observed"),
    ],
    ids=["evicted", "deleted"],
)
def test_a_pod_that_is_taken_away_is_named(launch, end, words):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        end(job.pod(0))
        job.launcher_saw("pods", times=2)
        job.fail()

    with Cluster(life=life) as cluster, pytest.raises(TrainingError, match=words):
        launch(cluster)


# Pods that are replaced.


def test_the_log_goes_on_with_the_pod_that_replaces_an_evicted_one(launch, capsys, tmp_path):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("first pod", *step(1))
        job.wait_for_log_reader()
        job.sleep(0.1)
        job.pod(0).evict()
        # It stays listed beside its replacement, whose name may sort before it.
        job.create_pod(0)
        job.sleep(1.1)
        job.pod(0).start()
        job.pod(0).log("second pod", *step(2))
        job.wait_for_log_reader()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    lines = told(capsys)
    assert [line.split(" |")[0] for line in lines if line.startswith("step")] == ["step 1/4", "step 2/4"]
    log = (tmp_path / "training.log").read_text()
    assert "first pod" in log and "second pod" in log


def test_a_later_failure_is_not_blamed_on_an_eviction_that_the_job_survived(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        job.pod(0).evict()
        job.create_pod(0)
        job.pod(0).start()
        job.launcher_saw("pods", times=4)
        job.pod(0).log(*TRACEBACK)
        job.pod(0).terminate(1)
        job.launcher_saw("pods", times=2)
        job.fail()

    with Cluster(life=life) as cluster, pytest.raises(TrainingError) as error:
        launch(cluster)
    assert "RuntimeError: the real cause" in str(error.value)
    assert "ended with exit code 1 (Error)" in str(error.value) and "(Evicted)" not in str(error.value)


def test_a_failure_after_a_preemption_is_not_blamed_on_the_preempted_pod(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        job.suspend()
        job.sleep(0.3)
        job.resume()
        job.create_pods()
        job.pod(0).start()
        job.pod(0).log(*TRACEBACK)
        job.launcher_saw("pods", times=3)
        job.pod(0).terminate(1)
        job.launcher_saw("pods", times=2)
        job.fail()

    with Cluster(life=life) as cluster, pytest.raises(TrainingError) as error:
        launch(cluster, training_config(training_metadata_labels="kueue.x-k8s.io/queue-name=gpus"))
    assert "ended with exit code 1 (Error)" in str(error.value)
    assert "RuntimeError: the real cause" in str(error.value)


def test_the_cause_is_kept_of_a_pod_that_the_job_controller_removes_at_once(launch):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("loading the model")
        job.sleep(0.5)
        # Nobody is waited for: a look every 5 s would not see it.
        job.use_up_retries(137, "OOMKilled", seconds=0.3)

    with Cluster(life=life) as cluster, pytest.raises(TrainingError) as error:
        launch(cluster, poll=5, hurry=0.05)
    assert "ended with exit code 137 (OOMKilled)" in str(error.value)
    assert "raise training_resource_memory_per_worker" in str(error.value)


def test_the_cause_is_the_failure_and_not_the_removal_of_the_pod_that_was_started_again_after_it(launch):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*TRACEBACK)
        job.launcher_saw("pods", times=2)
        job.pod(0).terminate(1)
        # The kubelet starts it again, and then the Job controller sees that it was the last try.
        job.pod(0).restart()
        job.pod(0).log("loading once more")
        job.launcher_saw("pods", times=3)
        job.use_up_retries(143)

    with Cluster(life=life) as cluster, pytest.raises(TrainingError) as error:
        launch(cluster, recovery=30)
    assert "ended with exit code 1 (Error)" in str(error.value) and "RuntimeError: the real cause" in str(error.value)
    assert "loading once more" not in str(error.value)


def test_the_cause_is_the_failure_and_not_the_sigterm_of_the_removal_after_it(launch):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*TRACEBACK)
        job.launcher_saw("pods", times=2)
        job.pod(0).terminate(1)
        job.pod(0).restart()
        job.launcher_saw("pods", times=2)
        job.cluster.store.delete(PODS, job.namespace, job.pod(0).name)
        job.pod(0).terminate(143)
        job.launcher_saw("pods", times=2)
        job.fail()

    with Cluster(life=life, termination_seconds=1) as cluster, pytest.raises(TrainingError) as error:
        launch(cluster, recovery=30)
    assert "ended with exit code 1 (Error)" in str(error.value) and "exit code 143" not in str(error.value)


def test_a_pod_that_was_gone_before_anybody_looked_leaves_its_last_lines(launch):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("loading", *TRACEBACK)
        job.wait_for_log_reader()
        job.sleep(0.1)
        job.use_up_retries(1)

    with Cluster(life=life) as cluster, pytest.raises(TrainingError) as error:
        launch(cluster)
    assert "RuntimeError: the real cause" in str(error.value)


def test_an_end_that_is_seen_in_crash_loop_back_off_is_not_lost(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        for _ in range(2):
            job.pod(0).log("one attempt")
            job.pod(0).terminate(139, "Error")
            job.pod(0).waiting("CrashLoopBackOff")
            job.launcher_saw("pods", times=2)
            job.pod(0).restart()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    assert sum("ended with exit code 139 (Error)" in line for line in told(capsys)) == 2


# Failures that a retry does not mend.


def test_an_exit_code_that_says_so_ends_the_job_at_once(launch):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("kfp-osft: the training is lost: the loss of step 3 is nan")
        job.pod(0).terminate(78)
        # The kubelet starts it again, for minutes.
        job.pod(0).restart()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError, match="failed and every retry would fail in the same way") as error:
            launch(cluster)
        assert not cluster.trainjobs
    assert "the loss of step 3 is nan" in str(error.value)


def test_a_training_that_ended_because_nobody_followed_it_goes_on_when_somebody_does(launch):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("kfp-osft: nobody has followed this training for 60 minutes")
        job.pod(0).terminate(79)
        job.launcher_saw("pods", times=2)
        job.pod(0).restart()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)


def test_the_same_python_error_twice_ends_the_job(launch):
    def life(job: Job) -> None:
        job.start()
        for number in range(6):
            job.pod(0).log(*TRACEBACK[:2], f"ValueError: at 0x7f{number} in row 3")
            job.pod(0).terminate(1)
            job.launcher_saw("pods", times=2)
            job.pod(0).restart()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError, match="failed twice in the same way"):
            launch(cluster)
        assert not cluster.trainjobs


@pytest.mark.parametrize("second", ["OSError: another line", None])
def test_another_error_or_a_lost_pod_does_not_count_as_the_same(launch, second):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*TRACEBACK[:2], "ValueError: once")
        job.launcher_saw("pods", times=2)
        job.pod(0).terminate(1)
        job.launcher_saw("pods", times=2)
        job.pod(0).restart()
        if second is None:
            job.launcher_saw("pods", times=2)
            job.pod(0).delete()
            job.launcher_saw("pods", times=2)
            job.create_pod(0)
            job.pod(0).start()
        job.pod(0).log(*TRACEBACK[:2], second or "ValueError: once")
        job.launcher_saw("pods", times=2)
        job.pod(0).terminate(1)
        job.launcher_saw("pods", times=2)
        job.pod(0).restart()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)


def test_the_progress_in_the_termination_message_is_read_as_what_it_is(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        message = '{"progressPercentage": 30, "currentStep": 12, "totalSteps": 40, "trainMetrics": {}}'
        job.pod(0).terminate(1, message=message)
        job.launcher_saw("pods", times=2)
        job.fail()

    with Cluster(life=life) as cluster, pytest.raises(TrainingError, match=r"\(Error\): after step 12 of 40 \(30 %\)"):
        launch(cluster)


def test_an_eviction_with_the_exit_code_of_a_kill_gets_no_advice_about_memory(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        job.pod(0).evict("The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi.")
        job.launcher_saw("pods", times=2)
        job.fail()

    with Cluster(life=life) as cluster, pytest.raises(TrainingError) as error:
        launch(cluster)
    assert "The node ran out of a resource" in str(error.value)
    assert "training_resource_memory_per_worker" not in str(error.value)
