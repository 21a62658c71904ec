import base64
import json
import subprocess
import sys

import pytest

from helpers.training_configs import training_config, workspace_task_config
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.launch_trainjob.kubernetes.pods import training_pods
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import (
    POD_TEMPLATE_OVERRIDES,
    RUNTIME_PATCHES,
    dropped_fields,
    pods_field,
    trainjob,
    trainjob_name,
    trainjob_spec,
)
from kfp_osft.stages.launch_trainjob.train_text import train_text

VOLUME = {"name": "kfp-workspace", "persistentVolumeClaim": {"claimName": "run-workspace"}}
MOUNT = {"name": "kfp-workspace", "mountPath": "/kfp-workspace"}
# Of several processes in a pod.
SHARED_MEMORY = {"name": "kfp-osft-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16384Mi"}}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def manifest(field, runtime_kind=None, secret=None, owner=None, **parameters):
    config = training_config(
        training_resource_num_workers=2,
        training_resource_gpu_per_worker=4,
        training_metadata_annotations="note=mine",
        training_metadata_labels="team=nlp,kueue.x-k8s.io/queue-name=gpus",
        training_runtime="my-runtime",
        **parameters,
    )
    task = workspace_task_config(node_selector={"gpu": "h200"}, tolerations=[TOLERATION])
    spec = trainjob_spec(config, training_pods(config, "/kfp-workspace", task, {}), field, runtime_kind)
    return trainjob("osft-run-0123456789", spec, config, secret or {}, owner, "0" * 16)


def without_command_and_env(body):
    trainer = {name: value for name, value in body["spec"]["trainer"].items() if name not in ("command", "env")}
    return {**body, "spec": {**body["spec"], "trainer": trainer}}


POD_TEMPLATE = {
    "metadata": {"labels": {"team": "nlp"}, "annotations": {"note": "mine"}},
    "spec": {
        "volumes": [VOLUME, SHARED_MEMORY],
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [TOLERATION],
        "containers": [{"name": "node", "volumeMounts": [MOUNT, {"name": "kfp-osft-shm", "mountPath": "/dev/shm"}]}],
    },
}
RESOURCES = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"}
GOLDEN = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "TrainJob",
    "metadata": {
        "name": "osft-run-0123456789",
        "labels": {"app.kubernetes.io/managed-by": "kfp-osft", "kueue.x-k8s.io/queue-name": "gpus"},
        "annotations": {
            "kfp-osft/training": "f" * 64,
            "kfp-osft/creation": "0" * 16,
            "trainer.opendatahub.io/progression-tracking": "true",
            "trainer.opendatahub.io/metrics-port": "28080",
            "trainer.opendatahub.io/metrics-poll-interval": "30s",
        },
    },
    "spec": {
        "runtimeRef": {"name": "my-runtime"},
        "trainer": {
            "numNodes": 2,
            "numProcPerNode": 4,
            "resourcesPerNode": {"requests": RESOURCES, "limits": RESOURCES},
        },
    },
}
PODS = {
    POD_TEMPLATE_OVERRIDES: [{"targetJobs": [{"name": "node"}], **POD_TEMPLATE}],
    RUNTIME_PATCHES: [
        {
            "manager": "kfp-osft/launch",
            "trainingRuntimeSpec": {
                "template": {
                    "spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": POD_TEMPLATE}}}]}
                }
            },
        }
    ],
}


@pytest.mark.parametrize("field", [RUNTIME_PATCHES, POD_TEMPLATE_OVERRIDES])
def test_the_trainjob_is_the_golden_one_for_each_generation(field):
    golden = {**GOLDEN, "spec": {**GOLDEN["spec"], field: PODS[field]}}
    assert without_command_and_env(manifest(field)) == golden


def test_a_runtime_of_the_namespace_is_named_with_its_kind():
    assert manifest(RUNTIME_PATCHES, runtime_kind="TrainingRuntime")["spec"]["runtimeRef"] == {
        "name": "my-runtime",
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
    }


def test_secrets_come_from_the_secret_and_the_owner_is_the_runs_workflow():
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run", "uid": "1"}
    body = manifest(RUNTIME_PATCHES, secret={"osft-env": ["HF_TOKEN"]}, owner=owner)
    assert body["spec"]["trainer"]["env"][-1] == {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "osft-env", "key": "HF_TOKEN"}},
    }
    assert body["metadata"]["ownerReferences"] == [owner]


def test_the_command_is_the_training_script_as_text_below_the_servers_limit():
    python, option, script = manifest(RUNTIME_PATCHES)["spec"]["trainer"]["command"]
    assert (python, option) == ("python", "-c")
    assert len(script.encode()) < 64 * 1024
    # As the kubelet hands it on: $$ is $, and there is no $(NAME) left to expand.
    assert script.replace("$$", "$") == train_text()
    result = subprocess.run(
        [sys.executable, option, script.replace("$$", "$")],
        capture_output=True,
        text=True,
        env={"OSFT_TRAIN_ARGS": "no base64"},
        check=False,
    )
    assert "OSFT_TRAIN_ARGS must be base64 of JSON" in result.stderr


def test_more_variables_than_the_server_accepts_are_an_error_before_any_request():
    config = training_config(training_envs=",".join(f"NAME_{number}=1" for number in range(120)))
    env = [{"name": f"TASK_{number}", "value": "1"} for number in range(10)]
    pods = training_pods(config, "/kfp-workspace", workspace_task_config(env=env), {})
    with pytest.raises(InputError, match="would have 135 environment variables .* accepts at most 128"):
        trainjob_spec(config, pods, RUNTIME_PATCHES, None)
    assert trainjob_spec(config, pods, POD_TEMPLATE_OVERRIDES, None)


@pytest.mark.parametrize(
    ("annotations", "tracked", "port"),
    [
        ("", "true", 28080),
        ("trainer.opendatahub.io/metrics-port=9000", "true", 9000),
        ("trainer.opendatahub.io/progression-tracking=false", "false", 0),
    ],
)
def test_the_annotations_that_show_the_progress_are_on_the_trainjob_and_the_script_knows_the_port(
    annotations, tracked, port
):
    config = training_config(training_metadata_annotations=annotations)
    pods = training_pods(config, "/kfp-workspace", workspace_task_config(), {})
    spec = trainjob_spec(config, pods, RUNTIME_PATCHES, None)
    body = trainjob("run-0123456789", spec, config, {}, None, "0")
    assert body["metadata"]["annotations"]["trainer.opendatahub.io/progression-tracking"] == tracked
    assert "trainer.opendatahub.io" not in str(spec.get(RUNTIME_PATCHES))
    (arguments,) = [one["value"] for one in pods.env if one["name"] == "OSFT_TRAIN_ARGS"]
    assert json.loads(base64.b64decode(arguments))["progress_port"] == port


def test_a_port_that_a_pod_may_not_open_is_an_error_that_names_the_annotation():
    config = training_config(training_metadata_annotations="trainer.opendatahub.io/metrics-port=80")
    with pytest.raises(InputError, match="metrics-port=80 is not allowed; allowed: a port from 1024 to 65535"):
        training_pods(config, "/kfp-workspace", workspace_task_config(), {})


def openapi(*fields):
    schema = {
        "x-kubernetes-group-version-kind": [
            {"group": "trainer.kubeflow.org", "kind": "TrainJob", "version": "v1alpha1"}
        ],
        "properties": {"spec": {"properties": {field: {} for field in fields}}},
    }
    return {"components": {"schemas": {"a.TrainJob": schema, "a.Status": {}}}}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (openapi("runtimeRef", "podTemplateOverrides"), POD_TEMPLATE_OVERRIDES),
        (openapi("runtimeRef", "runtimePatches"), RUNTIME_PATCHES),
        (openapi("runtimePatches", "podTemplateOverrides"), RUNTIME_PATCHES),
    ],
)
def test_the_generation_is_read_from_the_servers_openapi_document(document, field):
    assert pods_field(document) == field


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "there is no Kubeflow Trainer on this cluster"),
        (openapi("podSpecOverrides", "runtimeRef"), "it has podSpecOverrides, runtimeRef: this generation"),
        ({"components": {"schemas": {}}}, "has no TrainJob"),
    ],
)
def test_a_server_that_is_not_known_is_an_error(document, message):
    with pytest.raises(InputError, match=message):
        pods_field(document)


SPEC = manifest(RUNTIME_PATCHES)["spec"]


@pytest.mark.parametrize("run_name", ["osft-pipeline-x7k2p", "", "2026-run", "Über_Run!", "x" * 253, "a" * 36 + "-b"])
def test_a_name_is_a_dns_label_of_at_most_48_characters(run_name):
    name = trainjob_name(run_name, "id", "launch-trainjob", SPEC)
    assert len(name) <= 48 and name[0].isalpha() and "--" not in name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_retry_has_the_same_name_and_another_run_task_or_training_another():
    other = {**SPEC, "runtimeRef": {"name": "other"}}
    names = [
        trainjob_name("run", "1", "task", SPEC),
        trainjob_name("run", "2", "task", SPEC),
        trainjob_name("run", "1", "task-2", SPEC),
        trainjob_name("run", "1", "task", other),
    ]
    assert len(set(names)) == 4
    assert trainjob_name("run", "1", "task", manifest(RUNTIME_PATCHES)["spec"]) == names[0]


def test_a_field_that_the_server_has_dropped_is_found():
    assert dropped_fields({"a": [{"b": 1}]}, {"a": [{"b": 1, "default": 2}]}) == []
    assert dropped_fields({"a": [{"b": 1}], "c": {}}, {"a": [{}]}) == ["spec.a[0].b", "spec.c"]
    assert dropped_fields({"a": [1, 2]}, {"a": [1]}) == ["spec.a"]
