"""Lives of TrainJobs: what the engine asks of the cluster, and what a person reads, from the first to the last line."""

import base64
import dataclasses
import functools
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from fakes.kubernetes import ROLE, SEES_RUNTIMES, Cluster, Job, rule, without
from helpers.places import TESTS
from helpers.training_configs import task_config, training_config, workspace_task_config
from kfp_osft.pipelines.osft.manifest import manifest
from kfp_osft.shared.processes.termination import Terminated
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.launch_trainjob.kubernetes import client as cluster_module
from kfp_osft.stages.launch_trainjob.kubernetes import engine
from kfp_osft.stages.launch_trainjob.kubernetes.client import Forbidden, connect
from kfp_osft.stages.launch_trainjob.kubernetes.engine import Task, Timing, train_on_cluster
from kfp_osft.stages.launch_trainjob.trainer_output import TrainerOutput

TIMING = Timing(poll=0.03, trouble=0.3, refused=0.5, deletion=5, log=2)
#: Training parameters' minutes that a test can wait for.
MOMENT = 0.3 / 60


@pytest.fixture(autouse=True)
def outside_of_any_cluster(monkeypatch):
    for name in (
        "KUBERNETES_SERVER_URL",
        "KUBERNETES_AUTH_TOKEN",
        "KUBERNETES_NAMESPACE",
        "KUBERNETES_SERVICE_HOST",
        "KFP_POD_NAME",
        "KFP_POD_UID",
        "HF_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """Trains on a test cluster as a pod of it would; returns the TrainJob's name."""

    def run(cluster: Cluster, config=None, task=None, before_creation=lambda: None, timing=TIMING, run_name="run"):
        in_pod_of(cluster, monkeypatch)
        # Each step, however quick.
        monkeypatch.setattr(
            engine,
            "TrainerOutput",
            functools.partial(TrainerOutput, seconds_between_steps=0),
        )
        return train_on_cluster(
            connect(backoff_seconds=0.01),
            config or training_config(),
            Task(run_name, run_name, "launch-trainjob", "/kfp-workspace", task or workspace_task_config()),
            tmp_path / "training.log",
            before_creation,
            timing,
        )

    return run


def in_pod_of(cluster: Cluster, monkeypatch) -> None:
    host, port = cluster.url.removeprefix("https://").split(":")
    monkeypatch.setattr(cluster_module, "SERVICE_ACCOUNT", cluster.service_account)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)


def hurried(config=None, **minutes):
    """The config with deadlines of parts of a minute."""
    config = config or training_config()
    return dataclasses.replace(config, trainjob={**config.trainjob, **minutes})


def verbs(cluster: Cluster, resource: str = "trainjobs") -> list[str]:
    """What was asked, without repetitions in a row."""
    asked = [request.verb for request in cluster.asked(resource=resource)]
    return [verb for index, verb in enumerate(asked) if index == 0 or asked[index - 1] != verb]


def step(number: int, total: int = 4) -> list[str]:
    """A step as mini-trainer prints it: coloured JSON over many lines."""
    fields = {
        "step": number,
        "epoch": 0,
        "steps_per_epoch": total,
        "loss": 2 - number / 10,
        "lr": 1e-4,
        "tokens_per_second": 100.0,
        "time_per_batch": 1.0,
    }
    return ["{", *(f'  "{name}": {value},' for name, value in fields.items()), "}"]


def told(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


# Lives that end well.


def straight(job: Job) -> None:
    job.launcher_saw("events", times=2)
    job.create_pods()
    job.pod(0).scheduled()
    job.launcher_saw("events", times=3)
    job.pod(0).pulling()
    job.launcher_saw("events", times=3)
    job.start()
    for number in range(1, 5):
        job.pod(0).log(*step(number))
    job.wait_for_log_reader()
    job.complete()


@pytest.mark.parametrize("trainer", ["2.1", "2.2", "2.3"])
def test_a_training_is_followed_from_its_pods_to_its_last_step(launch, capsys, tmp_path, trainer):
    created = []
    with Cluster(trainer=trainer, life=straight) as cluster:
        name = launch(cluster, before_creation=lambda: created.append(1))
        (body,) = cluster.trainjobs
        assert body["metadata"]["name"] == name
        assert body["spec"]["podTemplateOverrides" if trainer == "2.1" else "runtimePatches"]
        (creation,) = cluster.asked(verb="create", resource="trainjobs")
        assert creation.query["fieldValidation"] == "Strict"
        assert verbs(cluster) == ["get", "create", "get"]
    pod = f"{name}-node-0-0"
    assert [re.sub(rf"{pod}-\w+", pod, line) for line in told(capsys)] == [
        f"TrainJob {name} in namespace ns created: 1 x 8 cpu, 32Gi memory, 1 nvidia.com/gpu, runtime training-hub",
        "Pending: the pods are being created",
        f"Pending: {pod} starts",
        f"Pending: {pod} pulls its image",
        "Running: 1 of 1 node",
        *(
            f"step {number}/4 | epoch 1 | loss {2 - number / 10:.4f} | lr 0.0001 | 100 tokens/s | {4 - number} s left"
            for number in range(1, 5)
        ),
        "Complete",
    ]
    assert created == [1]
    assert (tmp_path / "training.log").read_text().count('"step": 4') == 1


def test_a_training_too_quick_to_be_seen_running_is_complete_with_its_log(launch, capsys):
    def life(job: Job) -> None:
        job.start()
        job.pod(0).log(*step(4))
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster)
    lines = told(capsys)
    assert any(line.startswith("step 4/4") for line in lines)
    assert lines[-1] == "Complete"


def test_waiting_for_quota_is_told_and_does_not_count_as_starting(launch, capsys):
    def life(job: Job) -> None:
        job.suspend("Waiting in the queue gpus")
        job.sleep(0.6)
        job.resume()
        job.start()
        job.complete()

    with Cluster(life=life) as cluster:
        launch(cluster, hurried(start_deadline_minutes=MOMENT))
    lines = told(capsys)
    assert "Waiting for quota: the TrainJob is suspended (Waiting in the queue gpus)" in lines
    assert lines[-1] == "Complete"


def test_a_job_that_kueue_preempts_and_resumes_is_followed_to_its_end(launch, capsys):
    def life(job: Job) -> None:
        job.resume()
        job.start()
        job.launcher_saw("pods", times=2)
        job.suspend("Preempted to accommodate a higher priority workload")
        job.launcher_saw("pods", times=2)
        job.resume()
        job.create_pods()
        job.start()
        job.launcher_saw("pods", times=2)
        job.complete()

    with Cluster(life=life, queued=True) as cluster:
        launch(cluster, training_config(training_metadata_labels="kueue.x-k8s.io/queue-name=gpus"))
        assert cluster.trainjobs[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    lines = told(capsys)
    states = [line.split(":")[0] for line in lines if line.startswith(("Running", "Waiting for quota", "Complete"))]
    assert states[-4:] == ["Running", "Waiting for quota", "Running", "Complete"]
    assert any("Preempted to accommodate a higher priority workload" in line for line in lines)


def test_all_that_the_task_and_the_parameters_say_is_in_the_stored_trainjob(launch):
    task = workspace_task_config(
        node_selector={"gpu": "h200"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        affinity={
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                }
            }
        },
        env=[{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "HF_TOKEN"}}}],
        volumes=[{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        volume_mounts=[{"name": "models", "mountPath": "/models", "readOnly": True}],
    )
    config = training_config(
        training_base_model="/models/mine",
        training_resource_num_workers=2,
        training_metadata_labels="team=nlp",
        training_metadata_annotations="note=mine",
        training_envs="NCCL_DEBUG=INFO",
    )
    for trainer in ("2.1", "2.3"):
        with Cluster(trainer=trainer, life=lambda job: (job.start(), job.complete())) as cluster:
            launch(cluster, config, task)
            (pod, _) = cluster.pods
            spec, container = pod["spec"], pod["spec"]["containers"][0]
            assert spec["nodeSelector"] == {"gpu": "h200"}
            assert task.tolerations[0] in spec["tolerations"]
            assert spec["affinity"] == task.affinity
            assert {volume["name"] for volume in task.volumes} <= {volume["name"] for volume in spec["volumes"]}
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/kfp-workspace", "/models"}
            assert pod["metadata"]["labels"]["team"] == "nlp"
            assert pod["metadata"]["annotations"]["note"] == "mine"
            env = {variable["name"]: variable for variable in container["env"]}
            assert env["NCCL_DEBUG"]["value"] == "INFO"
            assert env["HF_TOKEN"] == task.env[0]


def test_the_trainjob_belongs_to_the_launchers_pod_and_goes_with_it(launch, monkeypatch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        monkeypatch.setenv("KFP_POD_NAME", cluster.launcher_pod)
        monkeypatch.setenv("KFP_POD_UID", cluster.launcher_uid)
        launch(cluster)
        assert cluster.trainjobs[0]["metadata"]["ownerReferences"] == [
            {"apiVersion": "v1", "kind": "Pod", "name": cluster.launcher_pod, "uid": cluster.launcher_uid}
        ]
        cluster.delete_launcher_pod()
        cluster.wait_until(lambda: not cluster.trainjobs)


def test_a_pod_of_another_cluster_is_no_owner(launch, monkeypatch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        monkeypatch.setenv("KFP_POD_NAME", cluster.launcher_pod)
        monkeypatch.setenv("KFP_POD_UID", "uid-of-a-pod-elsewhere")
        launch(cluster)
        assert "ownerReferences" not in cluster.trainjobs[0]["metadata"]


# Secrets.


def test_a_token_that_the_launcher_has_by_value_goes_into_a_secret_of_the_trainjob(launch, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_value_of_the_launcher")

    def life(job: Job) -> None:
        job.start()
        job.pod(0).log("the token is hf_value_of_the_launcher, warning")
        job.complete()

    with Cluster(life=life) as cluster:
        name = launch(cluster)
        ((secret, values),) = cluster.secrets.items()
        assert values == {"HF_TOKEN": "hf_value_of_the_launcher"}
        (body,) = cluster.trainjobs
        assert body["spec"]["trainer"]["env"][-1] == {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": secret, "key": "HF_TOKEN"}},
        }
        stored = cluster.asked(verb="create", resource="secrets")[-1].body
        assert stored["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "trainer.kubeflow.org/v1alpha1",
                "kind": "TrainJob",
                "name": name,
                "uid": body["metadata"]["uid"],
            }
        ]
        assert "hf_value_of_the_launcher" not in str(cluster.asked(verb="create", resource="trainjobs")[0].body)
    assert "hf_value_of_the_launcher" not in "\n".join(told(capsys))


def test_without_the_right_to_create_secrets_nothing_is_created_and_the_remedy_is_told(launch, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_value_of_the_launcher")
    with Cluster(rules=without(ROLE, "secrets")) as cluster:
        with pytest.raises(InputError, match="use_secret_as_env on the task") as error:
            launch(cluster)
        assert not cluster.trainjobs and not cluster.asked(verb="create", resource="trainjobs")
    assert 'cannot create resource "secrets"' in str(error.value)
    assert "hf_value_of_the_launcher" not in str(error.value)


# What ends before anything runs.


@pytest.mark.parametrize(
    ("cluster_options", "parameters", "message"),
    [
        ({"trainer": None}, {}, "there is no Kubeflow Trainer on this cluster"),
        ({"trainer": "unknown"}, {}, "this generation of the Trainer is not supported"),
        (
            {"rules": [*ROLE, *SEES_RUNTIMES]},
            {"training_runtime": "gone"},
            "Runtimes that training_runtime can name: torch-distributed, training-hub",
        ),
        ({}, {"training_runtime": "gone"}, "This token may not see which runtimes there are"),
        ({"rules": without(ROLE, "trainjobs", "create")}, {}, 'cannot create resource "trainjobs"'),
        ({"rules": without(ROLE, "trainjobs", "get")}, {}, 'cannot get resource "trainjobs"'),
    ],
)
def test_a_trainjob_that_cannot_be_is_an_error_and_leaves_nothing(launch, cluster_options, parameters, message):
    with Cluster(**cluster_options) as cluster:
        with pytest.raises(InputError, match=message):
            launch(cluster, training_config(**parameters))
        assert not cluster.trainjobs


def test_a_runtime_of_the_namespace_is_taken_where_the_token_may_see_it(launch):
    with Cluster(
        rules=[*ROLE, *SEES_RUNTIMES], runtimes=["mine"], life=lambda job: (job.start(), job.complete())
    ) as cluster:
        launch(cluster, training_config(training_runtime="mine"))
        assert cluster.trainjobs[0]["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"


def test_a_task_without_the_workspaces_volume_asks_for_nothing(launch):
    with Cluster() as cluster:
        with pytest.raises(InputError, match="which no volume of this task covers"):
            launch(cluster, task=task_config())
        assert not cluster.requests


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
        assert verbs(cluster)[-3:] == ["get", "delete", "get"]
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
        assert not cluster.trainjobs
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
        (lambda pod: pod.delete(), "is gone: it was deleted while it ran"),
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


# Retries of the stage.


def test_a_failed_job_of_an_earlier_attempt_is_replaced(launch, capsys):
    def first(job: Job) -> None:
        job.start()
        job.fail()

    def second(job: Job) -> None:
        job.start()
        job.complete()

    with Cluster(life=[first, second]) as cluster:
        # The first launcher could not delete: it lost the right, say.
        cluster.rules = without(ROLE, "trainjobs", "delete")
        with pytest.raises(TrainingError):
            launch(cluster)
        assert any("could not be deleted" in line and "kubectl delete trainjob" in line for line in told(capsys))
        cluster.rules = list(ROLE)
        name = launch(cluster)
        assert [job.name for job in cluster.jobs] == [name, name]
    assert any("of an earlier attempt failed: replaced" in line for line in told(capsys))


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
from kfp_osft.stages.launch_trainjob.kubernetes import client
from kfp_osft.stages.launch_trainjob.kubernetes.engine import Task, Timing, train_on_cluster
from helpers.training_configs import training_config, workspace_task_config
client.SERVICE_ACCOUNT = Path(sys.argv[1])
task = Task("run", "run", "launch-trainjob", "/kfp-workspace", workspace_task_config())
train_on_cluster(client.connect(), training_config(), task,
                 Path(sys.argv[2]), lambda: None, Timing(poll=0.03))
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
            [sys.executable, "-c", LAUNCHER, cluster.service_account, tmp_path / "training.log"],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdout=subprocess.DEVNULL,
        )
        launcher.wait()
        launch(cluster)
        assert len(cluster.jobs) == 1 and not cluster.asked(verb="delete", resource="trainjobs")
    lines = told(capsys)
    assert any("of an earlier attempt is there: followed" in line for line in lines)
    assert [line.split(" |")[0] for line in lines if line.startswith("step")] == ["step 1/4", "step 2/4"]


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
        assert cluster.asked(verb="delete", resource="trainjobs")[0].query["propagationPolicy"] == "Foreground"
    assert ended.value.code == 143
    assert told(capsys)[-1].endswith("is deleted")
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


# The connection.


def test_url_and_token_of_the_environment_go_before_the_pods_own_identity(launch, monkeypatch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        monkeypatch.setenv("KUBERNETES_SERVER_URL", f"{cluster.url}/")
        monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", cluster.token)
        cluster.token_file.write_text("not asked for")
        launch(cluster)


def test_a_token_that_is_not_accepted_is_said_without_it(launch, monkeypatch):
    with Cluster() as cluster:
        monkeypatch.setenv("KUBERNETES_SERVER_URL", cluster.url)
        monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", "a-token-of-yesterday")
        with pytest.raises(Forbidden, match="does not accept the token") as error:
            launch(cluster)
    assert "a-token-of-yesterday" not in str(error.value)


# Its rights.


def rules_of_the_manifest() -> list[dict]:
    _, role, _ = yaml.safe_load_all(manifest())
    return role["rules"]


def test_the_role_of_the_manifest_is_what_is_used_and_no_more(launch, monkeypatch):
    def life(job: Job) -> None:
        job.create_pods()
        job.launcher_saw("events", times=3)
        job.start()
        job.wait_for_log_reader()
        job.complete()

    with Cluster(life=life, rules=rules_of_the_manifest()) as cluster:
        cluster.add_claim("run-workspace", ["ReadWriteMany"])
        monkeypatch.setenv("HF_TOKEN", "hf_value_of_the_launcher")
        monkeypatch.setenv("KFP_POD_NAME", cluster.launcher_pod)
        monkeypatch.setenv("KFP_POD_UID", cluster.launcher_uid)
        launch(cluster)
        with pytest.raises(InputError, match="This token may not see|Runtimes that training_runtime can name"):
            launch(cluster, training_config(training_runtime="gone"))
        connect().delete_trainjob(cluster.trainjobs[0]["metadata"]["name"])
        used = {(f"{one.resource}/{one.subresource}".rstrip("/"), one.verb) for one in cluster.requests if one.verb}
    granted = {
        (resource, verb) for one in rules_of_the_manifest() for resource in one["resources"] for verb in one["verbs"]
    }
    # Runtimes of the whole cluster take a ClusterRole: asked for, and done without.
    assert used - granted == {("clustertrainingruntimes", "list")}
    assert granted <= used


# Warnings about the workspace.


def test_several_workers_on_a_read_write_once_claim_are_warned_about(launch, capsys):
    rules = [*ROLE, rule("", "persistentvolumeclaims", "get")]
    with Cluster(rules=rules, life=lambda job: (job.start(), job.complete())) as cluster:
        cluster.add_claim("run-workspace", ["ReadWriteOnce"])
        launch(cluster, training_config(training_resource_num_workers=2))
    assert any(
        "run-workspace is ReadWriteOnce: all 2 training pods must run on the node of this pod" in line
        for line in told(capsys)
    )


def test_base64_is_what_the_arguments_travel_in(launch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        launch(cluster)
        env = {one["name"]: one.get("value") for one in cluster.trainjobs[0]["spec"]["trainer"]["env"]}
    assert b'"device": "cuda"' in base64.b64decode(env["OSFT_TRAIN_ARGS"])
