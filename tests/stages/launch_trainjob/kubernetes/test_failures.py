"""Lives that cannot start or fail, and the API server's bad days: what is told, and that nothing is left."""

import time

import pytest

from fakes.kubernetes import ROLE, Cluster, Job, without
from helpers.launching import MOMENT, hurried, step, told, verbs
from helpers.training_configs import training_config
from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.stages.launch_trainjob.kubernetes.errors import Forbidden

# Lives that cannot start.


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


def test_an_image_that_comes_at_the_second_try_is_waited_for(launch, capsys):
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


# Lives that fail.


def test_out_of_host_memory_is_told_with_pod_lines_and_what_to_raise(launch, capsys):
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
    assert "2 ends of pods in all" in message
    assert "  loading the model again" in message
    assert "raise training_resource_memory_per_worker (32Gi now)" in message
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
        pytest.raises(TrainingError, match=r"lower training_max_tokens_per_gpu \(64000 now\)"),
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
        (lambda pod: pod.delete(), "is gone: it was deleted before its end could be seen"),
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


def test_a_job_that_somebody_deleted_is_told_as_that(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.delete_by_somebody()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError, match="is gone: somebody deleted it while it trained"):
            launch(cluster)
        assert not cluster.asked(verb="delete", resource="trainjobs")


def test_a_training_over_its_time_limit_is_ended(launch):
    def life(job: Job) -> None:
        job.start()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(TrainingError, match="has trained longer than training_time_limit_minutes="):
            launch(cluster, hurried(time_limit_minutes=MOMENT))
        assert not cluster.trainjobs


# The API server's bad days.


def test_a_rotated_token_is_read_again(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.cluster.rotate_token()
        job.launcher_saw("pods", times=3)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
        assert any(request.status == 401 for request in cluster.requests)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("verb", ["create", "get"])
def test_errors_of_the_server_are_asked_again(launch, status, verb):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.fail(3, status, verb=verb, resource="trainjobs")
        launch(cluster)
        assert [request.status for request in cluster.asked(verb=verb, resource="trainjobs")][:4].count(status) == 3


def test_a_server_that_stays_away_does_not_end_the_training(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.cluster.fail(12, 503, verb="get", resource="trainjobs")
        job.cluster.reset_connections(7, verb="list", resource="pods")
        job.launcher_saw("trainjobs", times=14)
        job.launcher_saw("pods", times=9)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    lines = told(capsys)
    assert any("The training goes on; asking again" in line for line in lines)
    assert "The cluster's API server answers again" in lines


def test_a_server_that_is_down_for_a_while_is_waited_for(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*step(1))
        job.wait_for_log_reader()
        job.cluster.go_down()
        time.sleep(0.5)
        job.cluster.come_back()
        job.wait_for_log_reader()
        job.pod(0).log(*step(2))
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    lines = told(capsys)
    assert [line.split(" |")[0] for line in lines if line.startswith("step")] == ["step 1/4", "step 2/4"]
    assert lines[-1] == "Complete"


def test_the_wait_that_the_server_asks_for_is_kept(launch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.fail(1, 429, retry_after=1, verb="create", resource="trainjobs")
        launch(cluster)
        first, second = cluster.asked(verb="create", resource="trainjobs")
        assert second.time - first.time >= 1


@pytest.mark.parametrize("fault", ["reset", 500])
def test_a_creation_whose_answer_is_lost_does_not_create_two(launch, fault):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        if fault == "reset":
            cluster.reset_connections(1, carried_out=True, verb="create", resource="trainjobs")
        else:
            cluster.fail(1, fault, carried_out=True, verb="create", resource="trainjobs")
        launch(cluster)
        assert len(cluster.jobs) == 1


def test_a_right_that_is_taken_away_ends_the_training_after_a_while(launch):
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.cluster.rules = without(job.cluster.rules, "pods")
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        with pytest.raises(Forbidden, match='cannot list resource "pods"'):
            launch(cluster)
        assert not cluster.trainjobs


# The log.


def test_a_log_that_is_cut_in_the_middle_of_a_line_is_told_once_and_whole(launch, tmp_path):
    def life(job: Job) -> None:
        job.start()
        job.wait_for_log_reader()
        for number in range(20):
            job.pod(0).log(f"line {number}")
            if number % 5 == 4:
                job.pod(0).log_part(f"cut {number}")
                job.pod(0).cut_log()
                job.pod(0).log_part(" and whole\n")
                job.wait_for_log_reader()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    expected = []
    for number in range(20):
        expected.append(f"line {number}")
        if number % 5 == 4:
            expected.append(f"cut {number} and whole")
    assert (tmp_path / "training.log").read_text().splitlines() == expected


def test_the_log_of_a_restarted_container_follows_that_of_the_first(launch, tmp_path):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("first container")
        job.wait_for_log_reader()
        job.pod(0).terminate(1)
        job.pod(0).restart()
        job.pod(0).log("second container")
        job.launcher_saw("pods", times=2)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    assert (tmp_path / "training.log").read_text().splitlines() == ["first container", "second container"]


def test_without_the_right_to_read_logs_the_training_goes_on(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*step(1))
        job.wait_for_request(resource="pods", subresource="log")
        job.complete()

    with Cluster(life=life, rules=without(ROLE, "pods/log")) as cluster:
        launch(cluster)
    lines = told(capsys)
    assert sum("the training's log cannot be read, the training goes on" in line for line in lines) == 1
    assert lines[-1] == "Complete"
