import base64
import dataclasses
import json

import pytest

from helpers.training_configs import task_config, training_config, workspace_task_config
from kfp_osft.shared.network import certificates
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.launch_trainjob.kubernetes.pods import training_pods, unexpanded
from kfp_osft.stages.mount import MOUNT_PATH

HF_REFERENCE = {"secretKeyRef": {"name": "hf-token", "key": "HF_TOKEN", "optional": True}}


def pods_of(config=None, task=None, environment=None, pvc_path="/kfp-workspace"):
    return training_pods(config or training_config(), pvc_path, task or workspace_task_config(), environment or {})


def env_of(pods):
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in pods.env}


def test_the_arguments_of_the_training_arrive_as_base64_json():
    config = training_config(training_learning_rate=1e-4)
    arguments = json.loads(base64.b64decode(env_of(pods_of(config))["OSFT_TRAIN_ARGS"]))
    assert arguments == {
        "osft": config.osft,
        "device": "cuda",
        "resumable": True,
        "attendance": {"file": f"{config.osft['ckpt_output_dir']}/.owner.json", "minutes": 60},
        "progress_port": 28080,
        "report_to": [],
    }


@pytest.mark.parametrize(
    ("gpus", "procs", "device", "processes"),
    [(1, "auto", "cuda", 1), (4, "auto", "cuda", 4), (4, "2", "cuda", 2), (0, "auto", "cpu", 1), (0, "3", "cpu", 3)],
)
def test_processes_follow_the_gpus_and_no_gpu_means_the_cpu(gpus, procs, device, processes):
    pods = pods_of(training_config(training_resource_gpu_per_worker=gpus, training_resource_num_procs_per_worker=procs))
    assert pods.processes == processes
    assert json.loads(base64.b64decode(env_of(pods)["OSFT_TRAIN_ARGS"]))["device"] == device


def test_caches_lie_in_the_workspace_unless_the_user_says_where():
    env = env_of(
        pods_of(
            training_config(training_envs="TRITON_CACHE_DIR=/tmp/triton"),
            workspace_task_config(env=[{"name": "HF_HOME", "value": "/models"}]),
        )
    )
    assert env["XDG_CACHE_HOME"] == "/kfp-workspace/.cache"
    assert (env["HF_HOME"], env["TRITON_CACHE_DIR"]) == ("/models", "/tmp/triton")


def test_each_variable_is_there_once_and_training_envs_win_over_the_task():
    task = workspace_task_config(env=[{"name": "NCCL_DEBUG", "value": "WARN"}, {"name": "A", "value": "1"}])
    pods = pods_of(training_config(training_envs="NCCL_DEBUG=INFO"), task)
    names = [variable["name"] for variable in pods.env]
    assert len(names) == len(set(names))
    assert (env_of(pods)["NCCL_DEBUG"], env_of(pods)["A"]) == ("INFO", "1")


@pytest.mark.parametrize(("report_to", "seen"), [("", set()), ("mlflow", {"MLFLOW_TRACKING_URI"})])
def test_a_trackers_variables_reach_the_training_that_reports_to_it_and_no_other(report_to, seen):
    task = workspace_task_config(env=[{"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow"}])
    pods = pods_of(training_config(training_report_to=report_to, training_envs="WANDB_PROJECT=mine"), task)
    assert {name for name in env_of(pods) if name.startswith(("MLFLOW_", "WANDB_"))} == seen


def test_what_the_kubelet_would_expand_in_training_envs_is_quoted():
    assert env_of(pods_of(training_config(training_envs="A=$(HOME)/$x")))["A"] == "$$(HOME)/$$x"
    assert unexpanded("nothing to quote") == "nothing to quote"


def test_references_to_secrets_stay_references():
    pods = pods_of(
        task=workspace_task_config(env=[{"name": "HF_TOKEN", "valueFrom": HF_REFERENCE}]),
        environment={"HF_TOKEN": "hf_value_of_the_launcher"},
    )
    assert env_of(pods)["HF_TOKEN"] == HF_REFERENCE
    assert pods.secret_env == {}


@pytest.mark.parametrize(
    ("env", "environment"),
    [([{"name": "HF_TOKEN", "value": "hf_secret_value"}], {}), ([], {"HF_TOKEN": "hf_secret_value"})],
    ids=["literal of the task", "launcher's environment"],
)
def test_a_secret_that_is_there_by_value_only_is_no_literal(env, environment):
    pods = pods_of(task=workspace_task_config(env=env), environment=environment)
    assert pods.secret_env == {"HF_TOKEN": "hf_secret_value"}
    assert "hf_secret_value" not in json.dumps(pods.env)


def test_the_launchers_own_variables_stay_with_the_launcher():
    task = workspace_task_config(
        env=[
            {"name": "KUBERNETES_AUTH_TOKEN", "valueFrom": HF_REFERENCE},
            {"name": "KUBERNETES_SERVER_URL", "value": "https://cluster"},
            {"name": "OSFT_LAUNCHER", "value": ""},
        ]
    )
    assert not {"KUBERNETES_AUTH_TOKEN", "KUBERNETES_SERVER_URL", "OSFT_LAUNCHER"} & set(env_of(pods_of(task=task)))


@pytest.mark.parametrize("name", ["PET_NNODES", "MASTER_ADDR", "RANK"])
def test_a_variable_that_the_runtime_owns_is_refused(name):
    with pytest.raises(InputError, match=f"{name} is set by the training runtime"):
        pods_of(task=workspace_task_config(env=[{"name": name, "value": "1"}]))


GPU = "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("parameters", "task", "limits", "warning"),
    [
        ({}, None, {"cpu": "8", "memory": "32Gi", GPU: "1"}, ""),
        ({"training_resource_gpu_per_worker": 0}, None, {"cpu": "8", "memory": "32Gi"}, ""),
        # The parameters have their defaults: what is set on the task holds.
        ({}, {"cpu": "16", "memory": "64Gi", GPU: "2"}, {"cpu": "16", "memory": "64Gi", GPU: "2"}, ""),
        ({}, {"amd.com/gpu": "4"}, {"cpu": "8", "memory": "32Gi", "amd.com/gpu": "4"}, ""),
        ({}, {"ephemeral-storage": "10Gi"}, {"cpu": "8", "memory": "32Gi", GPU: "1", "ephemeral-storage": "10Gi"}, ""),
        # A parameter that was given holds, and what it overrules is told.
        (
            {"training_resource_cpu_per_worker": "4"},
            {"cpu": "16"},
            {"cpu": "4", "memory": "32Gi", GPU: "1"},
            "training_resource_cpu_per_worker=4 overrides the task's cpu of 16",
        ),
        (
            {"training_resource_gpu_per_worker": 2},
            {"amd.com/gpu": "1"},
            {"cpu": "8", "memory": "32Gi", "amd.com/gpu": "2"},
            "training_resource_gpu_per_worker=2 overrides the task's 1 of amd.com/gpu",
        ),
    ],
)
def test_resources_come_from_the_parameters_and_from_the_task_where_they_leave_them_open(
    parameters, task, limits, warning
):
    pods = pods_of(training_config(**parameters), workspace_task_config(resources={"limits": task} if task else None))
    assert pods.limits == limits
    # What cannot be shared is requested as it is limited.
    assert {name: quantity for name, quantity in pods.requests.items() if "/" in name} == {
        name: quantity for name, quantity in limits.items() if "/" in name
    }
    assert pods.warnings == ((warning,) if warning else ())


def test_a_request_without_a_limit_is_kept_as_the_task_has_it():
    pods = pods_of(task=workspace_task_config(resources={"requests": {"cpu": "2"}, "limits": {"memory": "8Gi"}}))
    assert pods.requests == {"cpu": "2", GPU: "1"}
    assert pods.limits == {"memory": "8Gi", GPU: "1"}


def test_a_limit_of_memory_in_which_the_training_cannot_fit_is_refused_and_a_low_request_is_not():
    need = {"parameters": 32 << 30, "states": 64 << 30, "microbatch": 1 << 30, "tokens": 8192}
    config = dataclasses.replace(training_config(), about={"memory_need": need})
    pods_of(config, workspace_task_config(resources={"requests": {"memory": "1Gi"}}))
    limits = {"requests": {"memory": "64Gi"}, "limits": {"memory": "8Gi"}}
    with pytest.raises(InputError, match="^the pod's memory limit of 8Gi cannot be enough: loading the base model "):
        pods_of(config, workspace_task_config(resources=limits))


def test_placement_goes_in_whole():
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    pods = pods_of(
        task=workspace_task_config(
            node_selector={"gpu": "h200"}, tolerations=[{"operator": "Exists"}], affinity=affinity
        )
    )
    assert (pods.node_selector, pods.tolerations, pods.affinity) == (
        {"gpu": "h200"},
        [{"operator": "Exists"}],
        affinity,
    )
    assert pods.claims() == ["run-workspace"]


@pytest.mark.parametrize(
    ("config", "task", "message"),
    [
        (
            training_config(),
            task_config(),
            r"pvc_path is /kfp-workspace, which is not on a volume of this task "
            r"\(mounted: none\)",
        ),
        (training_config(), workspace_task_config("/kfp"), r"pvc_path is /kfp-workspace, .* \(mounted: /kfp\)"),
        (
            training_config(),
            task_config(volume_mounts=[{"name": "gone", "mountPath": "/kfp-workspace"}]),
            "which is not on a volume of this task",
        ),
        (
            training_config(training_base_model="/models/mine"),
            workspace_task_config(),
            "training_base_model is /models/mine, which is not on a volume",
        ),
        (
            training_config(),
            task_config(
                volumes=[{"name": "w"}], volume_mounts=[{"name": "w", "mountPath": "/kfp-workspace", "readOnly": True}]
            ),
            "mounted read-only at /kfp-workspace",
        ),
    ],
)
def test_a_path_that_the_pods_could_not_see_is_an_error(config, task, message):
    with pytest.raises(InputError, match=message):
        pods_of(config, task)


def test_a_model_on_a_volume_of_its_own_is_seen():
    task = workspace_task_config(
        volumes=[{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        volume_mounts=[{"name": "models", "mountPath": "/models", "readOnly": True}],
    )
    assert pods_of(training_config(training_base_model="/models/mine"), task).claims() == ["run-workspace", "models"]


def shared_memory(pods):
    """The size of the memory-backed /dev/shm; None where there is none."""
    (name,) = [mount["name"] for mount in pods.volume_mounts if mount["mountPath"] == "/dev/shm"] or [None]
    found = [volume["emptyDir"] for volume in pods.volumes if volume["name"] == name]
    assert all(volume["medium"] == "Memory" for volume in found)
    return found[0]["sizeLimit"] if found else None


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ({}, None),
        ({"training_resource_gpu_per_worker": 2}, "16384Mi"),
        ({"training_resource_gpu_per_worker": 2, "training_resource_memory_per_worker": "1e9"}, "476Mi"),
        ({"training_resource_gpu_per_worker": 0, "training_resource_num_procs_per_worker": "2"}, "16384Mi"),
        ({"training_resource_shared_memory_per_worker": "2Gi"}, "2Gi"),
        ({"training_resource_gpu_per_worker": 8, "training_resource_shared_memory_per_worker": "0"}, None),
    ],
)
def test_several_processes_get_shared_memory_of_half_the_pods_memory_unless_a_size_is_given(parameters, size):
    assert shared_memory(pods_of(training_config(**parameters))) == size


def test_shared_memory_is_half_of_what_the_task_limits_memory_to():
    task = workspace_task_config(resources={"limits": {"memory": "100Gi"}})
    pods = pods_of(training_config(training_resource_gpu_per_worker=2), task)
    assert shared_memory(pods) == "51200Mi"


def test_a_volume_of_the_users_own_at_dev_shm_stays():
    task = workspace_task_config(
        volumes=[{"name": "mine", "persistentVolumeClaim": {"claimName": "c"}}],
        volume_mounts=[{"name": "mine", "mountPath": "/dev/shm"}],
    )
    pods = pods_of(training_config(training_resource_gpu_per_worker=2), task)
    assert [mount["name"] for mount in pods.volume_mounts] == ["kfp-workspace", "mine"]


def test_the_stages_own_volumes_and_pips_settings_stay_with_the_launcher():
    task = workspace_task_config(
        env=[{"name": "PIP_INDEX_URL", "value": "https://user:password@index"}],
        volumes=[{"name": "code", "configMap": {"name": "code"}}, {"name": "ca", "configMap": {"name": "ca"}}],
        volume_mounts=[
            {"name": "code", "mountPath": MOUNT_PATH},
            {"name": "ca", "mountPath": certificates.MOUNT_PATH},
        ],
    )
    pods = pods_of(task=task)
    assert [volume["name"] for volume in pods.volumes] == ["kfp-workspace"]
    assert "PIP_INDEX_URL" not in env_of(pods)


def test_certificate_authorities_come_by_the_workspace_in_the_place_of_the_launchers_files():
    bundle = "/kfp-workspace/.cache/certificates/ca-bundle.crt"
    pods = pods_of(
        task=workspace_task_config(env=[{"name": "REQUESTS_CA_BUNDLE", "value": "/certs/ca.crt"}]),
        environment={"OSFT_CA_BUNDLE": bundle},
    )
    assert {name: env_of(pods)[name] for name in certificates.CLIENT_VARIABLES} == dict.fromkeys(
        certificates.CLIENT_VARIABLES, bundle
    )
    assert not set(certificates.CLIENT_VARIABLES) & set(env_of(pods_of()))
