import json

import pytest
from kfp import dsl, kubernetes

from helpers.compiled_pipeline import (
    HUB,
    LAUNCH,
    STAGES,
    Compiled,
    compile_,
    make_dataset,
    rows_artifact,
    say,
)
from kfp_osft import stages
from kfp_osft.pipelines import train_model
from kfp_osft.pipelines.facade.osft_task import OsftTask
from kfp_osft.shared.network import certificates
from kfp_osft.shared.reporting.errors import InputError


def operated(operate, parameters=None) -> Compiled:
    """Compiles a pipeline that does something to train_model's task, which must come back for chaining."""

    def callers(*arguments):
        task = train_model(pvc_path="/pvc")
        assert operate(task, *arguments) is task

    return compile_(callers, parameters or {})


def test_it_is_a_pipeline_task_to_whoever_looks():
    def callers():
        task = train_model(pvc_path="/pvc")
        assert isinstance(task, dsl.PipelineTask)
        assert task.name == "export-model"
        assert task.inputs["pvc_path"] == "/pvc"
        with pytest.raises(AttributeError, match="multiple outputs"):
            task.output  # noqa: B018

    compile_(callers)


def test_every_method_of_a_pipeline_task_is_passed_on():
    public = {name for name in vars(dsl.PipelineTask) if not name.startswith("_")}
    # Which work from what OsftTask sets: its outputs, its inputs, its set_env_variable.
    inherited = {"inputs", "output", "outputs", "set_debug_pause"}
    assert public - inherited <= set(vars(OsftTask))


def test_after_another_task_the_first_stage_waits():
    def callers():
        train_model(pvc_path="/pvc").after(say(), make_dataset())

    tasks = compile_(callers).tasks
    assert sorted(tasks["resolve-dataset"]["dependentTasks"]) == ["make-dataset", "say"]
    assert tasks["preprocess"]["dependentTasks"] == ["resolve-dataset"]


def test_another_task_after_it_waits_for_the_model():
    def callers():
        say().after(train_model(pvc_path="/pvc"))

    assert compile_(callers).tasks["say"]["dependentTasks"] == ["export-model"]


def test_ignoring_an_upstream_failure_is_the_first_stages():
    def callers():
        train_model(pvc_path="/pvc").after(say()).ignore_upstream_failure()

    tasks = compile_(callers).tasks
    assert [name for name in STAGES if "triggerPolicy" in tasks[name]] == ["resolve-dataset"]


@pytest.mark.parametrize(("enabled", "expected"), [(True, {"enableCache": True}), (False, {})])
def test_caching_options_reach_all_stages(enabled, expected):
    tasks = operated(lambda task: task.set_caching_options(enabled)).tasks
    assert [tasks[stage]["cachingOptions"] for stage in STAGES] == [expected] * len(STAGES)


def test_a_cache_key_reaches_all_stages():
    tasks = operated(lambda task: task.set_caching_options(True, cache_key="mine")).tasks
    assert [tasks[stage]["cachingOptions"].get("cacheKey") for stage in STAGES] == ["mine"] * len(STAGES)


def test_retries_reach_all_stages():
    tasks = operated(lambda task: task.set_retry(2, backoff_duration="30s")).tasks
    assert [tasks[stage]["retryPolicy"]["maxRetryCount"] for stage in STAGES] == [2] * len(STAGES)
    assert [tasks[stage]["retryPolicy"]["backoffDuration"] for stage in STAGES] == ["30s"] * len(STAGES)


def test_a_display_name_goes_before_the_stages_names():
    tasks = operated(lambda task: task.set_display_name("Tune Qwen")).tasks
    names = [tasks[stage]["taskInfo"]["name"] for stage in STAGES]
    assert names[0] == "Tune Qwen: resolve dataset" and names[5] == "Tune Qwen: export model"
    assert len(set(names)) == len(STAGES)


def test_an_image_reaches_all_stages():
    compiled = operated(lambda task: task.set_container_image("example.org/image:1"))
    assert {compiled.container(stage)["image"] for stage in STAGES} == {"example.org/image:1"}


def test_an_image_may_be_a_pipeline_parameter():
    compiled = operated(lambda task, image: task.set_container_image(image), {"image": str})
    assert {compiled.container(stage)["image"] for stage in STAGES} == {
        "{{$.inputs.parameters['pipelinechannel--image']}}"
    }
    for stage in STAGES:
        given = compiled.tasks[stage]["inputs"]["parameters"]
        assert given["pipelinechannel--image"] == {"componentInputParameter": "image"}


# An environment variable's name, and the stages that get it.
ENVIRONMENT = {
    "KUBERNETES_SERVER_URL": LAUNCH,
    "KUBERNETES_AUTH_TOKEN": LAUNCH,
    "OSFT_LAUNCHER": LAUNCH,
    "OCI_PULL_SECRET_MODEL_DOWNLOAD": ["preprocess", "export-model"],
    "OSFT_MODELCAR_BASE": ["preprocess", "export-model"],
    # Of evaluate_model, where there is one.
    "EVAL_HUB_TOKEN": [],
    "HF_TOKEN": HUB,
    "HF_ENDPOINT": HUB,
    "HUGGING_FACE_HUB_TOKEN": HUB,
    "AWS_ACCESS_KEY_ID": ["resolve-dataset", "preprocess", "export-model"],
    "AWS_SECRET_ACCESS_KEY": ["resolve-dataset", "preprocess", "export-model"],
    "S3_ENDPOINT": ["resolve-dataset", "preprocess", "export-model"],
    "AWS_CA_BUNDLE": STAGES,
    "SSL_CERT_FILE": STAGES,
    "OSFT_CA_BUNDLE": STAGES,
    "PIP_INDEX_URL": STAGES,
    "HTTPS_PROXY": STAGES,
    "no_proxy": STAGES,
    "WANDB_API_KEY": STAGES,
    "SOMETHING_ELSE": STAGES,
    # No prefix of a name above.
    "MY_KUBERNETES_X": STAGES,
    "hf_token": STAGES,
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_an_environment_variable_reaches_the_stages_that_need_it(name):
    compiled = operated(lambda task: task.set_env_variable(name, "value"))
    given = {stage: compiled.container(stage).get("env", []) for stage in STAGES}
    assert {stage: env for stage, env in given.items() if env} == {
        stage: [{"name": name, "value": "value"}] for stage in ENVIRONMENT[name]
    }


@pytest.mark.parametrize("name", ENVIRONMENT)
@pytest.mark.parametrize(
    ("use", "field"),
    [(kubernetes.use_secret_as_env, "secretAsEnv"), (kubernetes.use_config_map_as_env, "configMapAsEnv")],
)
def test_a_variable_from_a_secret_or_a_config_map_reaches_the_stages_that_need_it(use, field, name):
    compiled = operated(lambda task: use(task, "mine", {"key": name}, optional=True))
    assert compiled.stages_with(field) == ENVIRONMENT[name]
    for stage in ENVIRONMENT[name]:
        (item,) = compiled.kubernetes(stage)[field]
        ((entry_name, key_name),) = [
            (entry["envVar"], entry.get("secretKey", entry.get("configMapKey"))) for entry in item["keyToEnv"]
        ]
        assert (entry_name, key_name, item["optional"]) == (name, "key", True)


@pytest.mark.parametrize("name", ["HF_HOME", "POD_IP"])
def test_a_variable_from_a_pods_field_reaches_the_stages_that_need_it(name):
    compiled = operated(lambda task: kubernetes.use_field_path_as_env(task, name, "status.podIP"))
    expected = HUB if name == "HF_HOME" else STAGES
    assert compiled.stages_with("fieldPathAsEnv") == expected
    assert compiled.kubernetes("preprocess") == {"fieldPathAsEnv": [{"name": name, "fieldPath": "status.podIP"}]}


def test_a_secret_with_variables_for_different_stages_is_split():
    keys = {"url": "KUBERNETES_SERVER_URL", "token": "HF_TOKEN", "oci": "OCI_PULL_SECRET_MODEL_DOWNLOAD"}
    compiled = operated(lambda task: kubernetes.use_secret_as_env(task, "all-in-one", keys))
    given = {
        stage: [
            (item["secretName"], sorted(entry["envVar"] for entry in item["keyToEnv"]))
            for item in compiled.kubernetes(stage)["secretAsEnv"]
        ]
        for stage in HUB
    }
    assert given == {
        "resolve-dataset": [("all-in-one", ["HF_TOKEN"])],
        "preprocess": [("all-in-one", ["HF_TOKEN", "OCI_PULL_SECRET_MODEL_DOWNLOAD"])],
        "launch-trainjob": [("all-in-one", ["HF_TOKEN", "KUBERNETES_SERVER_URL"])],
        "collect-metrics": [("all-in-one", ["HF_TOKEN"])],
        "export-model": [("all-in-one", ["HF_TOKEN", "OCI_PULL_SECRET_MODEL_DOWNLOAD"])],
    }


def test_what_todays_pipelines_do_to_the_task_compiles_and_lands_where_it_is_needed():
    def callers():
        task = train_model(pvc_path="/pvc", dataset=rows_artifact(), training_runtime="training-hub")
        task.set_caching_options(False)
        kubernetes.set_image_pull_policy(task, "IfNotPresent")
        for secret, names in {
            "kubernetes-credentials": ["KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"],
            "oci-pull-secret-model-download": ["OCI_PULL_SECRET_MODEL_DOWNLOAD"],
            "hf-token": ["HF_TOKEN"],
        }.items():
            kubernetes.use_secret_as_env(task, secret, {name: name for name in names}, optional=True)

    compiled = compile_(callers)
    secrets = {
        stage: sorted(item["secretName"] for item in compiled.kubernetes(stage).get("secretAsEnv", []))
        for stage in STAGES
    }
    assert secrets == {
        "resolve-dataset": ["hf-token"],
        "preprocess": ["hf-token", "oci-pull-secret-model-download"],
        "launch-trainjob": ["hf-token", "kubernetes-credentials"],
        "collect-metrics": ["hf-token"],
        "render-loss-chart": [],
        "export-model": ["hf-token", "oci-pull-secret-model-download"],
    }
    assert {compiled.kubernetes(stage)["imagePullPolicy"] for stage in STAGES} == {"IfNotPresent"}


TERM = {"key": "zone", "operator": "In", "values": ["a"]}
AFFINITY = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [TERM]}]}}
TOLERATION = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
# What kfp.kubernetes can do to a task beside environment variables: how, its field, the stages it lands on.
PLATFORM = {
    "set_image_pull_policy": (lambda f, task: f(task, "Always"), "imagePullPolicy", STAGES),
    "set_image_pull_secrets": (lambda f, task: f(task, ["registry"]), "imagePullSecret", STAGES),
    "add_pod_label": (lambda f, task: f(task, "team", "nlp"), "podMetadata", STAGES),
    "add_pod_annotation": (lambda f, task: f(task, "note", "x"), "podMetadata", STAGES),
    "set_security_context": (lambda f, task: f(task, run_as_user=1000), "securityContext", STAGES),
    "set_timeout": (lambda f, task: f(task, 3600), "activeDeadlineSeconds", STAGES),
    "use_secret_as_volume": (lambda f, task: f(task, "certificates", "/certs"), "secretAsVolume", STAGES),
    "use_config_map_as_volume": (lambda f, task: f(task, "settings", "/etc/x"), "configMapAsVolume", STAGES),
    "mount_pvc": (lambda f, task: f(task, "data", "/data"), "pvcMount", STAGES),
    "add_toleration": (lambda f, task: f(task, **TOLERATION), "tolerations", LAUNCH),
    "add_toleration_json": (lambda f, task: f(task, [TOLERATION]), "tolerations", LAUNCH),
    "add_node_selector": (lambda f, task: f(task, "gpu", "a100"), "nodeSelector", LAUNCH),
    "add_node_selector_json": (lambda f, task: f(task, {"gpu": "a100"}), "nodeSelector", LAUNCH),
    "add_node_affinity": (lambda f, task: f(task, match_expressions=[TERM]), "nodeAffinity", LAUNCH),
    "add_node_affinity_json": (lambda f, task: f(task, AFFINITY), "nodeAffinity", LAUNCH),
}
# What it can do that the training pods would not see.
REFUSED = {
    "empty_dir_mount": lambda f, task: f(task, "scratch", "/scratch"),
    "add_ephemeral_volume": lambda f, task: f(task, "tmp", "/tmp", ["ReadWriteOnce"], "1Gi"),
}
# An older KFP has fewer.
PLATFORM = {name: row for name, row in PLATFORM.items() if name in kubernetes.__all__}
# With a pipeline parameter in place of the value.
PLATFORM_PARAMETERS = {
    "set_image_pull_secrets": (str, lambda f, task, value: f(task, [value])),
    "use_secret_as_env": (str, lambda f, task, value: f(task, value, {"key": "SOMETHING"})),
    "use_secret_as_volume": (str, lambda f, task, value: f(task, value, "/certs")),
    "use_config_map_as_env": (str, lambda f, task, value: f(task, value, {"key": "SOMETHING"})),
    "use_config_map_as_volume": (str, lambda f, task, value: f(task, value, "/settings")),
    "mount_pvc": (str, lambda f, task, value: f(task, value, "/data")),
    "add_toleration_json": (list, lambda f, task, value: f(task, value)),
    "add_node_selector_json": (dict, lambda f, task, value: f(task, value)),
    "add_node_affinity_json": (dict, lambda f, task, value: f(task, value)),
}


def test_the_tables_hold_all_that_kfp_kubernetes_does_to_tasks():
    environment = {"use_secret_as_env", "use_config_map_as_env", "use_field_path_as_env"}
    # Components, not operations on a task.
    components = {"CreatePVC", "DeletePVC"}
    assert set(kubernetes.__all__) - components <= set(PLATFORM) | set(REFUSED) | environment


@pytest.mark.parametrize("name", [name for name in REFUSED if name in kubernetes.__all__])
def test_a_volume_that_kfp_does_not_hand_to_the_training_pods_is_refused(name):
    with pytest.raises(InputError, match=rf"^kfp.kubernetes.{name} on train_model's task: KFP cannot pass such"):
        operated(lambda task: REFUSED[name](getattr(kubernetes, name), task))


@pytest.mark.parametrize(
    "operate",
    [
        lambda task: task.set_env_variable("PET_NNODES", "2"),
        lambda task: kubernetes.use_secret_as_env(task, "mine", {"key": "MASTER_ADDR"}),
        lambda task: kubernetes.use_config_map_as_env(task, "mine", {"key": "RANK"}),
        lambda task: kubernetes.use_field_path_as_env(task, "WORLD_SIZE", "status.podIP"),
    ],
    ids=["value", "secret", "config map", "field"],
)
def test_a_variable_that_the_training_runtime_sets_is_refused_when_compiling(operate):
    with pytest.raises(InputError, match=r"^the environment variable [A-Z_]+ is set by the training runtime"):
        operated(operate)


@pytest.mark.parametrize("image", ["my image:1", "", "registry.example/Upper", "https://registry/image"])
def test_what_is_not_an_image_is_refused_when_compiling(image):
    with pytest.raises(InputError, match=f"^the image '{image}' is not a container image's name"):
        operated(lambda task: task.set_container_image(image))


@pytest.mark.parametrize("path", ["/certs", certificates.MOUNT_PATH])
def test_the_config_map_of_authorities_is_mounted_once_where_the_caller_says(path):
    # In the pipeline's own words and through kubernetes_config.
    config = dsl.TaskConfig(
        volumes=[{"name": "ca", "configMap": {"name": certificates.CONFIG_MAP}}],
        volume_mounts=[{"name": "ca", "mountPath": path}],
    )

    def callers():
        train_model(pvc_path="/pvc", dataset=rows_artifact(), kubernetes_config=config)

    executors = compile_(callers).platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    launcher = executors["exec-launch-trainjob"]["configMapAsVolume"]
    assert [item["mountPath"] for item in launcher if item["configMapName"] == certificates.CONFIG_MAP] == [path]

    compiled = operated(lambda task: kubernetes.use_config_map_as_volume(task, certificates.CONFIG_MAP, path))
    for executor in compiled.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        mounts = [item for item in executor["configMapAsVolume"] if item["configMapName"] == certificates.CONFIG_MAP]
        assert [mount["mountPath"] for mount in mounts] == [path]


def on_the_launcher_alone(operate, parameters=None) -> dict:
    """What the operation does to a plain task, which launch_trainjob's is."""

    def callers(*arguments):
        operate(stages.launch_trainjob(training_config="{}", pvc_path="/pvc"), *arguments)

    return compile_(callers, parameters or {}).kubernetes("launch-trainjob")


@pytest.mark.parametrize("name", PLATFORM)
def test_an_operation_of_kfp_kubernetes_lands_on_its_stages_as_on_a_plain_task(name):
    function = getattr(kubernetes, name)
    operate, field, expected = PLATFORM[name]
    compiled = operated(lambda task: operate(function, task))
    plain = on_the_launcher_alone(lambda task: operate(function, task))

    assert list(plain) == [field]
    assert compiled.stages_with(field) == expected
    assert [compiled.kubernetes(stage) for stage in expected] == [plain] * len(expected)


@pytest.mark.parametrize("name", PLATFORM_PARAMETERS)
def test_an_operation_of_kfp_kubernetes_takes_a_pipeline_parameter_as_on_a_plain_task(name):
    function = getattr(kubernetes, name)
    type_, operate = PLATFORM_PARAMETERS[name]
    compiled = operated(lambda task, value: operate(function, task, value), {"value": type_})
    plain = on_the_launcher_alone(lambda task, value: operate(function, task, value), {"value": type_})

    assert "value" in json.dumps(plain)
    assert compiled.kubernetes("launch-trainjob") == plain


@pytest.mark.parametrize("name", [name for name in PLATFORM if not name.startswith("set_")])
def test_an_operation_of_kfp_kubernetes_twice_lands_twice(name):
    function = getattr(kubernetes, name)
    operate, _, expected = PLATFORM[name]

    def twice(task):
        operate(function, task)
        return operate(function, task)

    compiled = operated(twice)
    plain = on_the_launcher_alone(twice)
    assert [compiled.kubernetes(stage) for stage in expected] == [plain] * len(expected)


def test_operations_of_kfp_kubernetes_add_up():
    def operate(task):
        kubernetes.add_pod_label(task, "team", "nlp")
        kubernetes.add_pod_label(task, "stage", "tune")
        kubernetes.add_pod_annotation(task, "note", "x")
        kubernetes.add_node_selector(task, "gpu", "a100")
        kubernetes.add_node_selector(task, "zone", "a")
        kubernetes.mount_pvc(task, "one", "/one")
        kubernetes.use_secret_as_env(task, "hf-token", {"HF_TOKEN": "HF_TOKEN"})
        return kubernetes.mount_pvc(task, "two", "/two")

    compiled = operated(operate)
    assert compiled.kubernetes("launch-trainjob") == on_the_launcher_alone(operate)
    assert compiled.kubernetes("render-loss-chart") == {
        "podMetadata": {"labels": {"team": "nlp", "stage": "tune"}, "annotations": {"note": "x"}},
        "pvcMount": compiled.kubernetes("launch-trainjob")["pvcMount"],
    }
    mounts = compiled.kubernetes("render-loss-chart")["pvcMount"]
    assert [mount["mountPath"] for mount in mounts] == ["/one", "/two"]


def test_a_volume_that_an_upstream_task_makes_is_waited_for():
    def callers():
        volume = kubernetes.CreatePVC(
            pvc_name_suffix="-data", access_modes=["ReadWriteMany"], size="1Gi", storage_class_name="standard"
        )
        task = train_model(pvc_path="/data")
        kubernetes.mount_pvc(task, volume.outputs["name"], "/data")
        kubernetes.DeletePVC(pvc_name=volume.outputs["name"]).after(task)

    compiled = compile_(callers)
    assert compiled.stages_with("pvcMount") == STAGES
    assert "createpvc" in compiled.tasks["resolve-dataset"]["dependentTasks"]
    assert sorted(compiled.tasks["deletepvc"]["dependentTasks"]) == ["createpvc", "export-model"]


RESOURCES = {
    "set_cpu_request": ("4", {"resourceCpuRequest": "4"}),
    "set_cpu_limit": ("8", {"resourceCpuLimit": "8"}),
    "set_memory_request": ("16Gi", {"resourceMemoryRequest": "16Gi"}),
    "set_memory_limit": ("32Gi", {"resourceMemoryLimit": "32Gi"}),
    "set_accelerator_type": ("nvidia.com/gpu", {"accelerator": {"resourceType": "nvidia.com/gpu"}}),
    "add_node_selector_constraint": ("nvidia.com/gpu", {"accelerator": {"resourceType": "nvidia.com/gpu"}}),
}


def without_numbers(resources: dict) -> dict:
    """KFP writes resources twice, as given and as a deprecated number."""
    kept = {
        name: value
        for name, value in resources.items()
        if name not in ("cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit")
    }
    if "accelerator" in kept:
        kept["accelerator"] = {
            name: value for name, value in kept["accelerator"].items() if name.startswith("resource")
        }
    return kept


@pytest.mark.parametrize("method", RESOURCES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_resources_are_the_training_pods(method):
    value, expected = RESOURCES[method]
    compiled = operated(lambda task: getattr(task, method)(value))
    given = without_numbers(compiled.container("launch-trainjob")["resources"])
    given.get("accelerator", {}).pop("resourceCount", None)
    assert given == expected
    untouched = compile_(lambda: train_model(pvc_path="/pvc") and None)
    assert [compiled.container(stage) for stage in STAGES if stage not in LAUNCH] == [
        untouched.container(stage) for stage in STAGES if stage not in LAUNCH
    ]


@pytest.mark.parametrize("method", ["set_accelerator_limit", "set_gpu_limit"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_number_of_accelerators_is_the_training_pods(method):
    compiled = operated(lambda task: getattr(task.set_accelerator_type("nvidia.com/gpu"), method)("2"))
    assert without_numbers(compiled.container("launch-trainjob")["resources"]) == {
        "accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "2"}
    }


@pytest.mark.parametrize("method", ["set_cpu_limit", "set_memory_limit", "set_memory_request", "set_cpu_request"])
def test_resources_may_be_pipeline_parameters(method):
    compiled = operated(lambda task, value: getattr(task, method)(value), {"value": str})
    assert "{{$.inputs.parameters['pipelinechannel--value']}}" in (
        compiled.container("launch-trainjob")["resources"].values()
    )
    given = compiled.tasks["launch-trainjob"]["inputs"]["parameters"]
    assert given["pipelinechannel--value"] == {"componentInputParameter": "value"}
