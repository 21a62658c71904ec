"""Pods of the test cluster whose command really runs, as processes of this computer."""

import json
import os
import textwrap
from pathlib import Path

import psutil
import pytest

from fakes.kubernetes import Cluster, run_as_processes
from fakes.kubernetes.kubelet import expand
from helpers.kubernetes_requests import Launcher, conditions, owned_secret, trainjob, until, with_pod_settings


def python(code: str, *arguments: str) -> list[str]:
    return ["python", "-c", textwrap.dedent(code), *arguments]


def ran(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Creates nothing; waits for the end of the first TrainJob and returns its conditions."""
    cluster.wait_until(lambda: {"Complete", "Failed"} & set(conditions(cluster.trainjobs[0])))
    return conditions(cluster.trainjobs[0])


def lives(pid: int) -> bool:
    """False for a zombie as well: where nobody collects orphans they stay."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)-$(A)", "1-1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(B)", "$(B)"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("${A}", "${A}"),
    ],
)
def test_references_are_expanded_as_the_kubelet_does(text: str, expanded: str):
    assert expand(text, {"A": "1"}) == expanded


def test_two_nodes_find_each_other_by_what_the_server_sets():
    code = """
        import os, socket, time
        rank = int(os.environ["PET_NODE_RANK"])
        address = (os.environ["PET_MASTER_ADDR"], int(os.environ["PET_MASTER_PORT"]))
        if rank == 0:
            peer = socket.create_server(address).accept()[0]
            print("node 0 heard", peer.recv(100).decode())
        else:
            while True:
                try:
                    peer = socket.create_connection(address)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
            peer.sendall(f"node {rank} of {os.environ['PET_NNODES']}, {os.environ['PET_NPROC_PER_NODE']} each".encode())
    """
    with Cluster(life=run_as_processes()) as cluster:
        Launcher(cluster).create(trainjob(numNodes=2, numProcPerNode=3, command=python(code)))
        assert ran(cluster) == {"Complete": ("True", "AllJobsCompleted")}
        assert cluster.jobs[0].pod(0).logs == ["node 0 heard node 1 of 2, 3 each\n"]


def test_the_container_has_what_the_manifest_says_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURS", "1")
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    env = [
        {"name": "A", "value": "one"},
        {"name": "B", "value": "$(A) two"},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
        {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "d"}}},
        {"name": "E", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": True}}},
        {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    with Cluster(life=run_as_processes(image_environment={"IMAGE": "1"})) as cluster:
        cluster.add_secret("hf", {"token": "geheim"})
        cluster.add_config_map("settings", {"d": "four"})
        Launcher(cluster).create(trainjob(command=python(code), args=["$(B)", "$$(B)", "$(OURS)"], env=env))
        ran(cluster)
        arguments, seen = json.loads(cluster.jobs[0].pod(0).logs[0])
    assert arguments == ["one two", "$(B)", "$(OURS)"]
    assert {name: seen[name] for name in "ABCDF"} == {"A": "one", "B": "one two", "C": "geheim", "D": "four", "F": "ns"}
    assert seen["IMAGE"] == "1" and not {"E", "OURS"} & set(seen) and seen["HOME"] != os.environ.get("HOME")


def test_a_pod_waits_for_the_secret_that_the_launcher_creates_after_the_trainjob():
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "train-env", "key": "token"}}}]
    with Cluster(life=run_as_processes()) as cluster:
        launcher = Launcher(cluster)
        created = launcher.create(trainjob(command=python("import os; print(os.environ['TOKEN'])"), env=env))
        until(lambda: launcher.pods() and launcher.pods()[0].status.container_statuses)
        waiting = launcher.pods()[0].status.container_statuses[0].state.waiting
        assert (waiting.reason, waiting.message) == ("CreateContainerConfigError", 'secret "train-env" not found')
        launcher.core.create_namespaced_secret("ns", owned_secret(created))
        assert ran(cluster)["Complete"] and cluster.jobs[0].pod(0).logs == ["geheim\n"]


def test_output_of_the_process_is_followed_live():
    code = "print('one', flush=True); input_ = open({!r}); print(input_.read())"
    fifo = Path(os.environ.get("TMPDIR", "/tmp")) / f"cluster-fifo-{os.getpid()}"
    os.mkfifo(fifo)
    try:
        with Cluster(life=run_as_processes()) as cluster:
            launcher = Launcher(cluster)
            launcher.create(trainjob(command=python(code.format(str(fifo)))))
            until(lambda: launcher.pods() and launcher.pods()[0].status.phase == "Running")
            followed = launcher.follow()
            assert next(followed) == "one\n"
            fifo.write_text("two")
            assert "".join(followed) == "two\n"
    finally:
        fifo.unlink()


@pytest.mark.parametrize(("backoff_limit", "logs"), [(0, 1), (1, 2)])
def test_a_process_that_fails_is_started_again_as_often_as_the_backoff_limit_says(backoff_limit: int, logs: int):
    with Cluster(life=run_as_processes(backoff_limit=backoff_limit, linger=0.1)) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob(command=python("print('no'); raise SystemExit(3)")))
        until(
            lambda: launcher.pods()
            and (launcher.pods()[0].status.container_statuses or [None])[0]
            and launcher.pods()[0].status.container_statuses[0].state.terminated
            and launcher.pods()[0].status.container_statuses[0].restart_count == backoff_limit
        )
        assert launcher.pods()[0].status.container_statuses[0].state.terminated.exit_code == 3
        assert ran(cluster) == {"Failed": ("True", "FailedJobs")}
        assert cluster.jobs[0].pod(0).logs == ["no\n"] * logs and launcher.pods() == []


@pytest.mark.parametrize("mounted", [True, False])
def test_a_claim_must_be_mounted_where_its_folder_is(tmp_path: Path, mounted: bool):
    (tmp_path / "rows.jsonl").write_text("{}")
    pod = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "pvc"}}],
        "containers": [
            {
                "name": "node",
                "volumeMounts": [{"name": "data", "mountPath": str(tmp_path if mounted else tmp_path / "other")}],
            }
        ],
    }
    body = with_pod_settings(
        "2.3", pod, command=python("import sys; print(open(sys.argv[1]).read())", str(tmp_path / "rows.jsonl"))
    )
    cluster = Cluster(life=run_as_processes(claims={"pvc": tmp_path}))
    if mounted:
        with cluster:
            Launcher(cluster).create(body, field_validation="Strict")
            assert ran(cluster)["Complete"] and cluster.jobs[0].pod(0).logs == ["{}\n"]
    else:
        with pytest.raises(AssertionError, match="not visible in the container"), cluster:
            Launcher(cluster).create(body, field_validation="Strict")
            cluster.wait_until(lambda: not cluster.trainjobs)


def test_a_claim_that_does_not_exist_leaves_the_pods_unschedulable():
    body = with_pod_settings("2.3", {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "none"}}]})
    with Cluster(life=run_as_processes()) as cluster:
        launcher = Launcher(cluster)
        launcher.create(body)
        until(lambda: launcher.pods() and launcher.pods()[0].status.conditions)
        assert 'persistentvolumeclaim "none" not found' in launcher.pods()[0].status.conditions[0].message


def test_deleting_the_trainjob_ends_its_processes_with_all_they_started():
    code = """
        import signal, subprocess, sys, os
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(os.getpid(), child.pid, flush=True)
        child.wait()
    """
    with Cluster(life=run_as_processes()) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob(command=python(code)))
        until(lambda: cluster.jobs[0].pods and any(cluster.jobs[0].pod(0).logs))
        processes = [int(pid) for pid in cluster.jobs[0].pod(0).logs[0].split()]
        assert all(map(lives, processes))
        launcher.delete(propagation_policy="Foreground")
    assert not any(map(lives, processes))
