"""The pods of the test cluster: what becomes of them, and their logs."""

import re
import threading
import time

import pytest
import urllib3
from kubernetes.client.exceptions import ApiException

from fakes.kubernetes import Cluster, Job, JobGone
from helpers.kubernetes_requests import (
    NODE_0,
    Body,
    Launcher,
    conditions,
    refusal,
    trainjob,
    until,
    with_pod_settings,
    writes,
)

# Lives


def test_kueue_suspends_and_resumes_and_jobs_status_counts_jobs():
    seen: list[Body] = []

    def life(job: Job) -> None:
        job.suspend()
        job.launcher_saw()
        job.resume()
        job.create_pods()
        job.pod(0).start()
        job.launcher_saw()
        job.pod(1).start()
        job.launcher_saw()
        job.complete()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob(numNodes=2))
        until(lambda: (seen.append(launcher.get()), "Complete" in conditions(seen[-1]))[1])
    told = []
    for body in seen:
        counts = body["status"]["jobsStatus"][0]
        told.append(
            (
                conditions(body).get("Suspended"),
                counts["suspended"],
                counts["active"],
                counts["ready"],
                counts["succeeded"],
            )
        )
    order = list(dict.fromkeys(told))
    assert order[-4:] == [
        (("True", "Suspended"), 1, 0, 0, 0),
        (("False", "Resumed"), 0, 1, 0, 0),
        (("False", "Resumed"), 0, 1, 1, 0),
        (("False", "Resumed"), 0, 0, 0, 1),
    ]
    assert conditions(seen[-1])["Complete"] == ("True", "AllJobsCompleted")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("ContainerCreating", "ContainerCreating"),
        ("ImagePullBackOff", "trying and failing to pull image"),
        ("ErrImagePull", "image can't be pulled"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
    ],
)
def test_a_pod_that_waits_has_no_log_yet(reason: str, said: str):
    def life(job: Job) -> None:
        job.create_pods()
        job.pod(0).waiting(reason)
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(
            lambda: [
                pod
                for pod in launcher.pods()
                if pod.status.container_statuses and pod.status.container_statuses[0].state.waiting.reason == reason
            ]
        )
        status, answer = refusal(launcher.log)
        name = launcher.pods()[0].metadata.name
        assert (status, answer["message"]) == (400, f'container "node" in pod "{name}" is waiting to start: {said}')


def test_an_unschedulable_pod_says_so_in_its_condition_and_an_event_and_its_log_is_empty():
    def life(job: Job) -> None:
        job.create_pods()
        job.pod(0).unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
        job.event("Warning", "FailedCreate", "quota", on="Job")
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: len(cluster.pods) == 1 and cluster.pods[0]["status"]["conditions"])
        condition = launcher.pods(NODE_0)[0].status.conditions[0]
        assert (condition.type, condition.status, condition.reason) == ("PodScheduled", "False", "Unschedulable")
        pod = launcher.pods()[0].metadata
        selector = f"involvedObject.kind=Pod,involvedObject.name={pod.name},involvedObject.uid={pod.uid}"
        event = launcher.core.list_namespaced_event("ns", field_selector=selector).items[0]
        assert (event.reason, event.message) == ("FailedScheduling", condition.message)
        assert event.last_timestamp is None and event.event_time
        assert launcher.log() == "" and list(launcher.follow()) == []
        until(lambda: launcher.core.list_namespaced_event("ns", field_selector="reason=FailedCreate").items)
        assert (
            refusal(lambda: launcher.core.list_namespaced_event("ns", field_selector="nothing=1"))[1]["message"]
            == "field label not supported: nothing"
        )


def test_a_container_that_restarts_has_two_logs_and_keeps_its_last_state():
    def life(job: Job) -> None:
        job.create_pods()
        pod = job.pod(0)
        pod.start()
        pod.log("first")
        job.launcher_saw("pods", subresource="log")
        pod.terminate(137, "OOMKilled")
        pod.restart()
        pod.log("second")
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs == ["first\n"])
        status, answer = refusal(lambda: launcher.log(previous=True))
        name = launcher.pods()[0].metadata.name
        assert (status, answer["message"]) == (400, f'previous terminated container "node" in pod "{name}" not found')
        until(lambda: cluster.jobs[0].pod(0).logs == ["first\n", "second\n"])
        assert launcher.log() == "second\n" and launcher.log(previous=True) == "first\n"
        container = launcher.pods()[0].status.container_statuses[0]
        ended = container.last_state.terminated
        assert (container.restart_count, ended.reason, ended.exit_code) == (1, "OOMKilled", 137)
        assert container.state.running


@pytest.mark.parametrize(
    ("happening", "expected"),
    [
        (lambda pod: pod.evict("The node was low on resource: memory."), ("Failed", "Evicted", False)),
        (lambda pod: pod.lose_node(), ("Running", "NodeLost", True)),
    ],
)
def test_evicted_and_lost_pods_say_why_and_have_no_log(happening, expected):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("step 1")
        happening(job.pod(0))
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: launcher.pods() and launcher.pods()[0].status.reason)
        pod = launcher.pods()[0]
        assert (pod.status.phase, pod.status.reason, bool(pod.metadata.deletion_timestamp)) == expected
        assert _status_of(launcher.log) in (200, 500)


def _status_of(request) -> int:
    try:
        assert "step 1" not in request()
    except ApiException as error:
        return error.status
    return 200


def test_a_queued_trainjob_is_suspended_from_its_first_moment():
    with Cluster(queued=True) as cluster:
        launcher = Launcher(cluster)
        assert launcher.create(trainjob())["spec"]["suspend"] is True
        assert conditions(launcher.get()) == {"Suspended": ("True", "Suspended")}
        cluster.jobs[0].resume()
        assert conditions(launcher.get()) == {"Suspended": ("False", "Resumed")}


def test_a_job_that_is_suspended_while_it_runs_loses_its_pods():
    def life(job: Job) -> None:
        job.start()
        job.launcher_saw("pods")
        job.suspend()
        job.wait_until(lambda: not job.cluster.pods)
        job.resume()
        job.create_pods()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(
            lambda: len({pod.metadata.name for pod in launcher.pods()} | {pod.name for pod in cluster.jobs[0].pods})
            == 2
        )
        assert [pod.metadata.name for pod in launcher.pods()] == [cluster.jobs[0].pod(0).name]


def test_a_lost_pod_stays_until_the_trainjob_goes():
    def life(job: Job) -> None:
        job.start()
        job.pod(0).lose_node()
        job.create_pod(0).start()
        job.wait_for_deletion()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: sorted(bool(pod.metadata.deletion_timestamp) for pod in launcher.pods()) == [False, True])
        launcher.delete(propagation_policy="Foreground")
        cluster.wait_until(lambda: not cluster.trainjobs and not cluster.pods)


def test_a_failed_trainjob_loses_its_pods_and_one_that_somebody_deletes_is_gone():
    def fails(job: Job) -> None:
        job.start()
        job.pod(0).terminate(1)
        job.fail()

    with Cluster(life=[fails, lambda job: (job.start(), job.delete_by_somebody())]) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: "Failed" in conditions(launcher.get()))
        assert conditions(launcher.get())["Failed"] == ("True", "FailedJobs") and launcher.pods() == []
        launcher.create(trainjob("second"))
        until(lambda: [one["metadata"]["name"] for one in cluster.trainjobs] == ["train"])


def test_a_life_that_goes_wrong_fails_the_test_and_ends_the_trainjob():
    def life(job: Job) -> None:
        job.create_pods()
        raise ZeroDivisionError("in the life")

    with pytest.raises(ZeroDivisionError, match="in the life"), Cluster(life=life) as cluster:
        Launcher(cluster).create(trainjob())
        cluster.wait_until(lambda: not cluster.trainjobs)


def test_a_life_waits_for_the_launcher_only_so_long():
    with (
        pytest.raises(TimeoutError, match="1 requests for pods"),
        Cluster(life=lambda job: job.launcher_saw("pods"), patience=0.1) as cluster,
    ):
        Launcher(cluster).create(trainjob())
        until(lambda: not cluster.trainjobs)


def test_a_life_ends_when_its_trainjob_is_deleted():
    ended = threading.Event()

    def life(job: Job) -> None:
        try:
            job.sleep(60)
        except JobGone:
            ended.set()
            raise

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        launcher.delete()
        assert ended.wait(5)


def test_a_pod_that_mounts_a_volume_it_does_not_have_fails_the_test():
    body = with_pod_settings(
        "2.3", {"containers": [{"name": "node", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}
    )
    with (
        pytest.raises(ValueError, match=r'volumeMounts\[0\].name: Not found: "data"'),
        Cluster(life=Job.start) as cluster,
    ):
        Launcher(cluster).create(body)
        cluster.wait_until(lambda: not cluster.trainjobs)


# Logs


def test_log_options_choose_as_the_kubelet_does():
    with Cluster(life=writes("one", "two", "three")) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs == ["one\ntwo\nthree\n"])
        assert launcher.log(container="node") == "one\ntwo\nthree\n"
        assert launcher.log(tail_lines=2) == "two\nthree\n" and launcher.log(tail_lines=0) == ""
        assert launcher.log(limit_bytes=5) == "one\nt"
        assert launcher.log(since_seconds=60) == "one\ntwo\nthree\n"
        stamps = [line.split(" ")[0] for line in launcher.log(timestamps=True).splitlines()]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)
        assert stamps == sorted(set(stamps))
        assert "not valid for pod" in refusal(lambda: launcher.log(container="other"))[1]["message"]
        assert refusal(lambda: launcher.log(since_seconds=0))[0] == 422
        name = launcher.pods()[0].metadata.name
        assert refusal(lambda: launcher.core.read_namespaced_pod_log(name + "x", "ns"))[0] == 404


def test_since_leaves_out_what_is_older():
    with Cluster(life=writes("old")) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        time.sleep(1.05)
        cluster.jobs[0].pod(0).log("new")
        assert launcher.log(since_seconds=1) == "new\n"
        stamp = launcher.log(timestamps=True, tail_lines=1).split(" ")[0]
        # Read in whole seconds, as the API server passes it on; the client has no argument for it.
        path = f"/api/v1/namespaces/ns/pods/{launcher.pods()[0].metadata.name}/log"
        assert launcher.page(path, sinceTime=stamp) == "new\n"


def test_a_followed_log_comes_as_it_is_written_and_ends_with_the_container():
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("one")
        job.wait_for_log_reader()
        job.pod(0).log_part("10%\r20")
        job.pod(0).log_part("%\ntwo\n")
        job.complete()

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        assert "".join(launcher.follow()) == "one\n10%\r20%\ntwo\n"
        assert "".join(launcher.follow(tail_lines=1)) == "two\n"
        assert cluster.requests[-1].matches(resource="pods", subresource="log", status=200)


def test_a_log_that_is_cut_in_the_middle_of_a_line_has_the_whole_line_at_the_next_read():
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("one")
        job.wait_for_log_reader()
        job.pod(0).log_part("tw")
        job.pod(0).cut_log()
        job.pod(0).log_part("o\n")
        job.wait_for_log_reader()
        job.pod(0).terminate(0)

    with Cluster(life=life) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        read = []
        with pytest.raises(urllib3.exceptions.ProtocolError):
            for text in launcher.follow():
                read.append(text)
        assert "".join(read) == "one\ntw"
        assert "".join(launcher.follow()) == "one\ntwo\n"


def test_a_reader_that_goes_away_is_noticed():
    with Cluster(life=writes("one")) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob())
        until(lambda: cluster.jobs[0].pods and cluster.jobs[0].pod(0).logs)
        answer = launcher.core.read_namespaced_pod_log(
            launcher.pods()[0].metadata.name, "ns", follow=True, _preload_content=False
        )
        cluster.jobs[0].wait_for_log_reader()
        answer.close()
        cluster.wait_until(lambda: cluster.jobs[0].pod(0).log_readers == 0)
