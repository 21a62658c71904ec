"""An API server that is unavailable, busy, starting or refusing: what is retried, for how long, and what is logged."""

import time

import pytest

from fakes.kubernetes import ROLE, Cluster, Job, without
from helpers.launching import MOMENT, hurried, step, told
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.launch_trainjob.kubernetes.errors import ClusterError, Forbidden, Unavailable

WEBHOOK_DOWN = (
    'Internal error occurred: failed calling webhook "validator.trainjob.trainer.kubeflow.org": failed to call: '
    'Post "https://10.0.0.1:443/validate": dial tcp 10.0.0.1:443: connect: connection refused'
)


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
    assert any("The training continues; retrying" in line for line in lines)
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


def test_a_wait_that_the_server_asks_for_is_logged_and_bounded(launch, capsys, monkeypatch):
    from kfp_osft.stages.launch_trainjob.kubernetes import client

    monkeypatch.setattr(client, "_LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(client, "_LONG_PAUSE_SECONDS", 0.1)
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.fail(1, 429, retry_after=3600, verb="create", resource="trainjobs")
        launch(cluster)
    assert any("it asks to wait 3600 s: retrying in 0 s" in line for line in told(capsys))


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


def test_a_webhook_that_is_down_is_waited_out(launch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.fail(3, 500, message=WEBHOOK_DOWN, verb="create", resource="trainjobs")
        cluster.fail(3, 422, message=WEBHOOK_DOWN, verb="create", resource="trainjobs")
        launch(cluster)
        assert len(cluster.jobs) == 1
