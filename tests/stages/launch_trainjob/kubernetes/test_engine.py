"""Lives of TrainJobs: what the engine asks of the cluster, and what a person reads, from the first to the last line."""

import base64
import re
import time

import pytest
import yaml

from fakes.kubernetes import ROLE, SEES_RUNTIMES, Cluster, Job, rule, without
from helpers.launching import MOMENT, as_the_launcher, hurried, step, told, verbs
from helpers.training_configs import task_config, training_config, workspace_task_config
from kfp_osft.pipelines.osft.manifest import manifest
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.launch_trainjob.kubernetes.connection import connect
from kfp_osft.stages.launch_trainjob.kubernetes.errors import Forbidden

# Lives that end well.


def straight(job: Job) -> None:
    # A look asks for those of TrainJob, JobSet, Job and pod.
    job.launcher_saw("events", times=3)
    job.create_pods()
    job.pod(0).scheduled()
    job.launcher_saw("events", times=8)
    job.pod(0).pulling()
    job.launcher_saw("events", times=8)
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
        f"Pending: {pod} is starting",
        f"Pending: {pod} is pulling its image",
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


def test_waiting_for_quota_is_logged_and_does_not_count_as_starting(launch, capsys):
    def life(job: Job) -> None:
        job.suspend("Waiting in the queue gpus")
        job.sleep(0.6)
        job.resume()
        job.start()
        job.complete()

    with Cluster(life=life) as cluster:
        queued = training_config(training_metadata_labels="kueue.x-k8s.io/queue-name=gpus")
        launch(cluster, hurried(queued, start_deadline_minutes=MOMENT))
    lines = told(capsys)
    assert "Waiting for quota in the queue gpus: Waiting in the queue gpus" in lines
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
    assert states[-4:] == ["Running", "Waiting for quota in the queue gpus", "Running", "Complete"]
    assert any("Preempted to accommodate a higher priority workload" in line for line in lines)


def test_all_that_the_task_and_the_parameters_say_is_in_the_stored_trainjob(launch, tmp_path):
    task = workspace_task_config(
        tmp_path,
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
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {str(tmp_path), "/models"}
            assert pod["metadata"]["labels"]["team"] == "nlp"
            assert pod["metadata"]["annotations"]["note"] == "mine"
            env = {variable["name"]: variable for variable in container["env"]}
            assert env["NCCL_DEBUG"]["value"] == "INFO"
            assert env["HF_TOKEN"] == task.env[0]


def test_the_trainjob_belongs_to_the_run_and_not_to_the_launchers_pod(launch, monkeypatch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        as_the_launcher(cluster, monkeypatch)
        launch(cluster)
        assert cluster.trainjobs[0]["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Workflow",
                "name": cluster.workflow,
                "uid": cluster.workflow_uid,
            }
        ]
        cluster.delete_launcher_pod()
        cluster.wait_until(lambda: [pod["metadata"]["name"] for pod in cluster.pods])
        time.sleep(0.3)
        assert cluster.trainjobs
        cluster.delete_run()
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


def test_without_the_right_to_create_secrets_nothing_is_created_and_the_remedy_is_named(launch, monkeypatch):
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
            "Allowed for training_runtime: torch-distributed, training-hub",
        ),
        (
            {},
            {"training_runtime": "gone"},
            "This token may not list TrainingRuntimes of ns and ClusterTrainingRuntimes",
        ),
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
        with pytest.raises(InputError, match="which is not on a volume of this task"):
            launch(cluster, task=task_config())
        assert not cluster.requests


# The connection.


def test_url_and_token_of_the_environment_go_before_the_pods_own_identity(launch, monkeypatch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        monkeypatch.setenv("KUBERNETES_SERVER_URL", f"{cluster.url}/")
        monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", cluster.token)
        cluster.token_file.write_text("not asked for")
        launch(cluster)


def test_a_rejected_token_is_reported_without_its_value(launch, monkeypatch):
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
        job.launcher_saw("workloads")
        job.resume()
        job.create_pods()
        job.launcher_saw("events", times=3)
        job.start()
        job.wait_for_log_reader()
        job.complete()

    with Cluster(life=life, rules=rules_of_the_manifest(), queued=True) as cluster:
        cluster.add_claim("run-workspace", ["ReadWriteMany"])
        monkeypatch.setenv("HF_TOKEN", "hf_value_of_the_launcher")
        as_the_launcher(cluster, monkeypatch)
        launch(cluster, training_config(training_metadata_labels="kueue.x-k8s.io/queue-name=gpus"))
        with pytest.raises(InputError, match="his token may not list ClusterTrainingRuntimes"):
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
        "run-workspace is ReadWriteOnce: all 2 training pods must run on the same node as this pod" in line
        for line in told(capsys)
    )


def test_base64_is_what_the_arguments_travel_in(launch):
    with Cluster(life=lambda job: (job.start(), job.complete())) as cluster:
        launch(cluster)
        env = {one["name"]: one.get("value") for one in cluster.trainjobs[0]["spec"]["trainer"]["env"]}
    assert b'"device": "cuda"' in base64.b64decode(env["OSFT_TRAIN_ARGS"])
