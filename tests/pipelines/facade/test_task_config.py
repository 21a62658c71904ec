from typing import Any

import pytest
from google.protobuf import json_format
from kfp import compiler, dsl, kubernetes
from kfp.kubernetes import kubernetes_executor_config_pb2

from helpers.compiled_pipeline import Compiled
from kfp_osft.pipelines import train_model
from kfp_osft.shared.reporting.errors import InputError

PVC_MOUNT = {
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "my-pvc"}}],
    "volume_mounts": [{"name": "data", "mountPath": "/data", "subPath": "a"}],
}


def _compiled(config: dsl.TaskConfig | None, do: Any = None) -> tuple[dict, dict]:
    """The container and the Kubernetes config of launch_trainjob in a pipeline with this kubernetes_config."""

    @dsl.pipeline(name="callers")
    def callers():
        task = train_model(pvc_path="/data", kubernetes_config=config)
        if do:
            do(task)

    # As the compiler writes them.
    specification = json_format.MessageToDict(callers.pipeline_spec)
    platform = json_format.MessageToDict(callers.platform_spec)
    container = specification["deploymentSpec"]["executors"]["exec-launch-trainjob"]["container"]
    executors = Compiled(specification, platform).executors
    config_of_launch = executors.get("exec-launch-trainjob", {})
    json_format.ParseDict(config_of_launch, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    others = {name for name in executors if name != "exec-launch-trainjob"}
    assert others == set(), "the training stage alone takes it"
    return container, config_of_launch


@pytest.mark.parametrize(
    ("given", "by_hand"),
    [
        ({"node_selector": {"gpu": "h200"}}, lambda task: kubernetes.add_node_selector(task, "gpu", "h200")),
        (
            {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]},
            lambda task: kubernetes.add_toleration(task, "gpu", "Exists", effect="NoExecute", toleration_seconds=5),
        ),
        (
            {
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200"]}]}
                            ]
                        }
                    }
                }
            },
            lambda task: kubernetes.add_node_affinity_json(
                task,
                {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200"]}]}
                        ]
                    }
                },
            ),
        ),
        ({"env": [{"name": "KUBERNETES_X", "value": "1"}]}, lambda task: task.set_env_variable("KUBERNETES_X", "1")),
        (
            {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}}]},
            lambda task: kubernetes.use_secret_as_env(task.tasks.launch_trainjob, "s", {"k": "TOKEN"}, optional=True),
        ),
        (
            {"env": [{"name": "C", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]},
            lambda task: kubernetes.use_config_map_as_env(task.tasks.launch_trainjob, "m", {"k": "C"}),
        ),
        (
            {"env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]},
            lambda task: kubernetes.use_field_path_as_env(task.tasks.launch_trainjob, "IP", "status.hostIP"),
        ),
        (PVC_MOUNT, lambda task: kubernetes.mount_pvc(task.tasks.launch_trainjob, "my-pvc", "/data", "a")),
        (
            {
                "volumes": [{"name": "v", "secret": {"secretName": "s"}}],
                "volume_mounts": [{"name": "v", "mountPath": "/s"}],
            },
            lambda task: kubernetes.use_secret_as_volume(task.tasks.launch_trainjob, "s", "/s"),
        ),
        (
            {
                "volumes": [{"name": "v", "configMap": {"name": "m"}}],
                "volume_mounts": [{"name": "v", "mountPath": "/m"}],
            },
            lambda task: kubernetes.use_config_map_as_volume(task.tasks.launch_trainjob, "m", "/m"),
        ),
        (
            {
                "resources": {
                    "requests": {"cpu": "4", "memory": "16Gi"},
                    "limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 2},
                }
            },
            lambda task: task.set_cpu_request("4")
            .set_memory_request("16Gi")
            .set_cpu_limit("8")
            .set_memory_limit("32Gi")
            .set_accelerator_type("nvidia.com/gpu")
            .set_accelerator_limit("2"),
        ),
    ],
    ids=[
        "node_selector",
        "tolerations",
        "affinity",
        "env value",
        "env secret",
        "env config map",
        "env field",
        "pvc",
        "secret volume",
        "config map volume",
        "resources",
    ],
)
def test_a_field_is_on_the_training_stage_as_if_it_was_set_on_its_task(given, by_hand):
    assert _compiled(dsl.TaskConfig(**given)) == _compiled(None, by_hand)
    assert _compiled(dsl.TaskConfig(**given)) != _compiled(None)


def test_an_empty_one_changes_nothing():
    assert _compiled(dsl.TaskConfig()) == _compiled(None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"volumes": [{"name": "tmp", "emptyDir": {}}], "volume_mounts": [{"name": "tmp", "mountPath": "/tmp"}]},
            r"volumes\[tmp\]: KFP cannot express emptyDir; it takes persistentVolumeClaim, secret, configMap",
        ),
        ({"affinity": {"podAffinity": {}}}, "affinity: KFP cannot express podAffinity; it takes nodeAffinity"),
        ({"volumes": [{"name": "a", "secret": {"secretName": "s"}}]}, "volumes: 'a' has no volumeMount"),
        ({"volume_mounts": [{"name": "a", "mountPath": "/a"}]}, "volume_mounts: there is no volume 'a'"),
        ({"resources": {"limits": {"nvidia.com/gpu": 1, "rdma/hca": 1}}}, "KFP takes one kind of accelerator"),
        ({"resources": {"claims": {}}}, "resources: KFP cannot express claims"),
        (
            {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]},
            r"env\[A\].valueFrom: KFP cannot express resourceFieldRef",
        ),
        (
            {**PVC_MOUNT, "volume_mounts": [{"name": "data", "mountPath": "/data", "readOnly": True}]},
            r"volume_mounts\[data\]: KFP cannot express readOnly",
        ),
    ],
)
def test_what_kfp_cannot_express_is_refused_by_name(given, message):
    with pytest.raises(InputError, match=message):
        _compiled(dsl.TaskConfig(**given))


def test_a_pipeline_with_one_is_what_an_upload_takes(tmp_path):
    @dsl.pipeline(name="callers")
    def callers():
        train_model(pvc_path="/data", kubernetes_config=dsl.TaskConfig(**PVC_MOUNT))

    compiler.Compiler().compile(callers, str(tmp_path / "callers.yaml"))

    assert "constant: my-pvc" in (tmp_path / "callers.yaml").read_text()


def test_outside_a_pipeline_it_is_refused():
    with pytest.raises(InputError, match="has no pods"):
        train_model(pvc_path="/data", dataset=dsl.Dataset(uri="/rows"), kubernetes_config=dsl.TaskConfig())
