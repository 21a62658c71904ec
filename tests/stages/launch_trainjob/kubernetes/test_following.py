"""TrainJobs as the real controllers treat them, who wait for nobody: what is told of them, and what is the cause."""

import time

import pytest

from fakes.kubernetes import ROLE, SEES_WORKLOADS, Cluster, Job, rule, without
from fakes.kubernetes.resources import PODS
from helpers.launching import MOMENT, hurried, step, told
from helpers.training_configs import training_config
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.launch_trainjob.kubernetes import following, pod_log
from kfp_osft.stages.launch_trainjob.kubernetes.errors import ClusterError, Forbidden, Unavailable
from kfp_osft.stages.launch_trainjob.kubernetes.following import Clock
from kfp_osft.stages.launch_trainjob.kubernetes.job import Timing

TRACEBACK = ("Traceback (most recent call last):", '  File "train.py", line 1', "RuntimeError: the real cause")


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
        with pytest.raises(TrainingError, match="it would end so at each further attempt") as error:
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
        with pytest.raises(TrainingError, match="it has ended twice in the same way"):
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
    assert "The node ran out of something" in str(error.value)
    assert "training_resource_memory_per_worker" not in str(error.value)


# Events.


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


def test_events_of_the_trainjob_before_are_not_told_of_the_new_one(launch, capsys):
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


def test_pods_that_cannot_be_created_are_told_once_and_without_the_script(launch, capsys):
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


# Queues.

QUEUED = {"training_metadata_labels": "kueue.x-k8s.io/queue-name=gpus"}
TOO_LARGE = (
    "couldn't assign flavors to pod set node: insufficient quota for nvidia.com/gpu in flavor a100, previously "
    "considered podsets requests (0) + current podset request (3) > maximum capacity (2)"
)


@pytest.mark.parametrize(
    ("message", "reason", "told_as"),
    [
        (TOO_LARGE, "Pending", "it needs 3 nvidia.com/gpu, the queue has 2 at most (flavor a100)"),
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


def test_what_kueue_says_of_a_full_queue_is_told_and_has_no_limit(launch, capsys):
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


def clock(now, **minutes):
    trainjob = {"start_deadline_minutes": 30, "queue_limit_minutes": 0, "time_limit_minutes": 0, **minutes}
    return Clock(trainjob, Timing(), lambda: now[0])


def test_the_time_in_a_queue_is_not_the_trainings():
    now = [0.0]
    limited = clock(now, time_limit_minutes=10)
    for phase, minutes in (("running", 6), ("queued", 60), ("starting", 1), ("running", 3)):
        for _ in range(minutes):
            assert not limited.overrun(phase, "", False)
            now[0] += 60
    for _ in range(4):
        overrun = limited.overrun("running", "", False)
        now[0] += 60
    assert overrun == "has trained longer than training_time_limit_minutes=10"


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
    assert any(line.startswith("Running, although the TrainJob says") for line in told(capsys))


def test_a_job_that_is_removed_right_after_it_completed_is_complete(launch, tmp_path):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        (tmp_path / "checkpoints" / "0123456789ab" / "training_complete.json").write_text("{}")
        job.expire()

    with Cluster(life=life) as cluster:
        launch(cluster)


# An API server that is not there, or not yet.


def test_a_server_that_starts_dirty_ends_nothing(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.cluster.go_down()
        time.sleep(0.3)
        job.cluster.come_back(dirty=1.0)
        job.launcher_saw("pods", times=3)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster, refused=5)
    assert told(capsys)[-1] == "Complete"


def test_a_server_that_starts_while_the_launcher_does_is_waited_for(launch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.go_down()
        # Within the time that a server takes to read its rules.
        cluster.come_back(dirty=0.15)
        launch(cluster)


def test_a_server_that_is_gone_for_good_is_given_up_and_the_time_limit_counts(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        job.cluster.go_down()

    for options, minutes, words in (
        ({"unreachable": 0.5}, {}, "does not answer"),
        ({"unreachable": 60}, {"time_limit_minutes": 3 * MOMENT}, "has trained longer than training_time_limit"),
    ):
        with Cluster(life=life) as cluster, pytest.raises((ClusterError, TrainingError), match=words):
            launch(cluster, hurried(**minutes), deletion=0.2, **options)


@pytest.mark.parametrize("status", [408, 409])
def test_what_passes_by_itself_is_asked_again(launch, status):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.fail(2, status, verb="create", resource="trainjobs")
        launch(cluster)
        assert len(cluster.jobs) == 1


def test_a_webhook_that_is_down_is_waited_out(launch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.fail(3, 500, message=WEBHOOK_DOWN, verb="create", resource="trainjobs")
        cluster.fail(3, 422, message=WEBHOOK_DOWN, verb="create", resource="trainjobs")
        launch(cluster)
        assert len(cluster.jobs) == 1


WEBHOOK_DOWN = (
    'Internal error occurred: failed calling webhook "validator.trainjob.trainer.kubeflow.org": failed to call: '
    'Post "https://10.0.0.1:443/validate": dial tcp 10.0.0.1:443: connect: connection refused'
)


@pytest.mark.parametrize("status", [403, 404])
def test_a_proxys_page_does_not_mean_that_somebody_deleted_the_job(launch, status):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods", times=2)
        job.cluster.fail(5, status, page=True, verb="get", resource="trainjobs")
        job.launcher_saw("pods", times=4)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
        assert not cluster.asked(verb="delete")


def test_a_secret_whose_answer_was_lost_is_there(launch, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_value_of_the_launcher")
    with Cluster(life=lambda job: (job.start(), job.sleep(0.5), job.complete())) as cluster:
        # The dry run comes first.
        cluster.reset_connections(1, carried_out=True, verb="create", resource="secrets")
        cluster.reset_connections(1, carried_out=True, verb="create", resource="secrets")
        launch(cluster)
        assert len(cluster.secrets) == 1


def test_a_wait_that_the_server_asks_for_is_said_and_has_an_end(launch, capsys, monkeypatch):
    from kfp_osft.stages.launch_trainjob.kubernetes import client

    monkeypatch.setattr(client, "_LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(client, "_LONG_PAUSE_SECONDS", 0.1)
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.fail(1, 429, retry_after=3600, verb="create", resource="trainjobs")
        launch(cluster)
    assert any("it asks to wait 3600 s: asking again in 0 s" in line for line in told(capsys))


def test_a_missing_right_to_list_pods_is_one_sentence(launch):
    with Cluster(rules=without(ROLE, "pods")) as cluster:
        with pytest.raises(Forbidden, match='cannot list resource "pods".*`kfp-osft manifest` prints the Role'):
            launch(cluster)
        assert not cluster.trainjobs


def test_a_server_that_is_not_there_is_one_sentence(launch):
    with Cluster() as cluster:
        cluster.go_down()
        with pytest.raises(Unavailable, match=f"the cluster's API server {cluster.url} does not answer"):
            launch(cluster, creation=0.3)
        cluster.come_back()
    assert issubclass(ClusterError, InputError)


# The log.


def test_a_line_without_an_end_is_cut_and_the_log_goes_on(launch, tmp_path):
    def life(job: Job) -> None:
        job.start()
        job.wait_for_log_reader()
        for _ in range(30):
            job.pod(0).log_part(b"x" * 100_000)
        job.pod(0).log_part("\nthe next line\n")
        job.sleep(0.3)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    first, second = (tmp_path / "training.log").read_text().splitlines()
    assert len(first) < pod_log.LONGEST_LINE + 20 and first.endswith(" ... [cut]")
    assert second == "the next line"


def test_a_log_that_cannot_be_written_is_said_and_the_training_goes_on(launch, capsys, monkeypatch):
    def broken(self, raw: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(following.Following, "_on_line", broken)

    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("one line")
        job.wait_for_log_reader()
        job.sleep(0.3)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    assert any("log cannot be read, the training goes on: OSError" in line for line in told(capsys))


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
