"""The log of node 0: each line once, whatever cuts it."""

from fakes.kubernetes import ROLE, Cluster, Job, without
from helpers.launching import step, told
from kfp_osft.stages.launch_trainjob.kubernetes.monitoring import monitor, pod_log


def test_a_log_that_is_cut_in_the_middle_of_a_line_repeats_and_loses_nothing(launch, tmp_path):
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
    assert sum("the log of the training cannot be read, the training continues" in line for line in lines) == 1
    assert lines[-1] == "Complete"


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


def test_a_log_that_cannot_be_written_is_reported_and_the_training_continues(launch, capsys, monkeypatch):
    def broken(self, raw: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(monitor.Monitor, "_on_line", broken)

    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("one line")
        job.wait_for_log_reader()
        job.sleep(0.3)
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    assert any("log of the training cannot be read, the training continues: OSError" in line for line in told(capsys))
