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


SECRET_ENV = {"secretKeyRef": {"name": "s", "key": "k"}}


def on_a_claim(**source):
    return {
        "volumes": [{"name": "data", "persistentVolumeClaim": source}],
        "volume_mounts": [{"name": "data", "mountPath": "/data"}],
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            on_a_claim(claimName="c", readOnly=True),
            r"volumes\[data\].persistentVolumeClaim: KFP cannot express readOnly; it takes claimName",
        ),
        (on_a_claim(), r"volumes\[data\].persistentVolumeClaim.claimName is missing; allowed: a string"),
        (on_a_claim(claimName=5), r"volumes\[data\].persistentVolumeClaim.claimName=5 is not allowed"),
        (
            {"volumes": [{"persistentVolumeClaim": {"claimName": "c"}}]},
            r"volumes\[0\].name is missing; allowed: a string",
        ),
        ({"volumes": [None]}, r"volumes\[0\] is missing; allowed: an object"),
        ({"volumes": {"name": "a"}}, r"volumes=\{'name': 'a'\} is not allowed; allowed: a list of objects"),
        (
            {**PVC_MOUNT, "volume_mounts": [{"name": "data"}]},
            r"volume_mounts\[data\].mountPath is missing; allowed: a string",
        ),
        ({"volumes": [{"name": "data"}], "volume_mounts": [{"name": "data", "mountPath": "/d"}]}, "one source"),
        ({"env": [{"value": "1"}]}, r"env\[0\].name is missing; allowed: a string"),
        ({"env": [{"name": "A", "value": 1}]}, r"env\[A\].value=1 is not allowed; allowed: a string"),
        ({"env": [{"name": "A", "value": None}]}, r"env\[A\].value is missing; allowed: a string"),
        ({"env": [{"name": "A-B", "value": "1"}]}, r"env\[A-B\] is not an environment variable's name"),
        ({"env": [{"name": "PET_NNODES", "value": "2"}]}, r"env\[PET_NNODES\] is set by the training runtime"),
        ({"env": [{"name": "MASTER_ADDR", "valueFrom": SECRET_ENV}]}, r"env\[MASTER_ADDR\] is set by the training"),
        ({"env": [{"name": "A", "value": "1", "valueFrom": SECRET_ENV}]}, r"env\[A\] has both value and valueFrom"),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]},
            r"env\[A\].valueFrom.secretKeyRef.key is missing",
        ),
        ({"env": ["A=1"]}, r"env\[0\]='A=1' is not allowed; allowed: an object"),
        ({"node_selector": {"gpu": 1}}, r"node_selector\[gpu\]=1 is not allowed; allowed: a string"),
        ({"node_selector": {"gpu": None}}, r"node_selector\[gpu\] is missing"),
        ({"tolerations": [{"key": 1}]}, r"tolerations\[0\].key=1 is not allowed"),
        ({"tolerations": [{"tolerationSeconds": "5"}]}, r"tolerations\[0\].tolerationSeconds='5' is not allowed"),
        (
            {"resources": {"limits": {"ephemeral-storage": "10Gi"}}},
            "resources.limits: KFP cannot express ephemeral-storage; it takes cpu, memory and one kind of accelerator",
        ),
        (
            {"resources": {"requests": {"ephemeral-storage": "10Gi"}}},
            "resources.requests: KFP cannot express ephemeral-storage",
        ),
        ({"resources": {"limits": {"hugepages-2Mi": "1Gi"}}}, "KFP cannot express hugepages-2Mi"),
        ({"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}, "resources of nvidia.com/gpu: limit 0.5"),
        (
            {"resources": {"limits": {"nvidia.com/gpu": 2}, "requests": {"nvidia.com/gpu": 1}}},
            "resources of nvidia.com/gpu: limit 2, request 1; allowed: the same integer",
        ),
        ({"resources": {"limits": {"memory": "32GB"}}}, "resources.limits.memory='32GB' is not allowed; allowed: a"),
        ({"resources": {"limits": {"memory": None}}}, "resources.limits.memory is missing; allowed: a Kubernetes"),
        ({"resources": {"limits": "all"}}, "resources.limits='all' is not allowed; allowed: an object"),
        ({"affinity": {"nodeAffinity": "gpu"}}, "affinity.nodeAffinity='gpu' is not allowed; allowed: an object"),
    ],
)
def test_what_is_malformed_is_refused_by_its_place(given, message):
    with pytest.raises(InputError, match=f"^kubernetes_config: .*{message}"):
        _compiled(dsl.TaskConfig(**given))


def test_another_object_in_its_place_is_refused():
    with pytest.raises(InputError, match=r"^kubernetes_config is a dict; allowed: a dsl.TaskConfig"):
        _compiled({"env": []})


def test_numbers_are_taken_for_quantities():
    given = {"limits": {"cpu": 8, "memory": "32Gi", "nvidia.com/gpu": 1}}
    as_strings = {"limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}}
    assert _compiled(dsl.TaskConfig(resources=given)) == _compiled(dsl.TaskConfig(resources=as_strings))


def test_objects_of_the_kubernetes_client_are_taken():
    client = pytest.importorskip("kubernetes.client")
    objects = dsl.TaskConfig(
        env=[
            client.V1EnvVar(
                "TOKEN",
                value_from=client.V1EnvVarSource(secret_key_ref=client.V1SecretKeySelector(name="s", key="k")),
            )
        ],
        tolerations=[client.V1Toleration(key="gpu", operator="Exists")],
        volumes=[
            client.V1Volume(
                name="data", persistent_volume_claim=client.V1PersistentVolumeClaimVolumeSource(claim_name="my-pvc")
            )
        ],
        volume_mounts=[client.V1VolumeMount(name="data", mount_path="/data", sub_path="a")],
        resources=client.V1ResourceRequirements(limits={"cpu": "8"}),
    )
    as_json = dsl.TaskConfig(
        env=[{"name": "TOKEN", "valueFrom": SECRET_ENV}],
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        **PVC_MOUNT,
        resources={"limits": {"cpu": "8"}},
    )
    assert _compiled(objects) == _compiled(as_json)


def test_a_pipeline_with_one_is_what_an_upload_takes(tmp_path):
    @dsl.pipeline(name="callers")
    def callers():
        train_model(pvc_path="/data", kubernetes_config=dsl.TaskConfig(**PVC_MOUNT))

    compiler.Compiler().compile(callers, str(tmp_path / "callers.yaml"))

    assert "constant: my-pvc" in (tmp_path / "callers.yaml").read_text()


def test_outside_a_pipeline_it_is_refused():
    with pytest.raises(InputError, match="has no pods"):
        train_model(pvc_path="/data", dataset=dsl.Dataset(uri="/rows"), kubernetes_config=dsl.TaskConfig())
