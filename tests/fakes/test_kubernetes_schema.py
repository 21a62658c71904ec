"""What the test cluster takes and refuses of a TrainJob, in each generation of the Trainer."""

import re

import pytest
from kubernetes.client.exceptions import ApiException

from fakes.kubernetes import Cluster, Job, schema
from fakes.kubernetes.compact_schema import compact_schema
from helpers.kubernetes_requests import NODE_0, Body, Launcher, refusal, trainjob, until, with_pod_settings


@pytest.fixture(params=["crd", "compact"])
def any_schema(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with the CRDs' schemas, where they are at hand, and once with our own."""
    if request.param == "compact":
        monkeypatch.setattr(schema, "crd_schema", lambda generation: None)
    elif not schema.CRD_FOLDER.exists():
        pytest.skip("the CRDs are not at hand")


# Generations of the Trainer


@pytest.mark.parametrize(
    ("trainer", "known"),
    [("2.1", ["podTemplateOverrides"]), ("2.2", ["runtimePatches"]), ("2.3", ["runtimePatches"]), ("unknown", [])],
)
def test_the_openapi_tells_the_generation(trainer: str, known: list[str], any_schema: None):
    with Cluster(trainer) as cluster:
        launcher = Launcher(cluster)
        url = launcher.page("/openapi/v3")["paths"]["apis/trainer.kubeflow.org/v1alpha1"]["serverRelativeURL"]
        assert re.fullmatch(r"/openapi/v3/apis/trainer\.kubeflow\.org/v1alpha1\?hash=[0-9A-F]{128}", url)
        schemas = launcher.page(url.split("?")[0])["components"]["schemas"]
        found = schemas["org.kubeflow.trainer.v1alpha1.TrainJob"]
        assert found["x-kubernetes-group-version-kind"] == [
            {"group": "trainer.kubeflow.org", "kind": "TrainJob", "version": "v1alpha1"}
        ]
        fields = found["properties"]["spec"]["properties"]
        assert [name for name in ("podTemplateOverrides", "runtimePatches") if name in fields] == known
        assert launcher.page("/apis")["groups"][0]["name"] == "trainer.kubeflow.org"
        listed = launcher.page("/apis/trainer.kubeflow.org/v1alpha1")["resources"]
        assert "trainjobs" in [one["name"] for one in listed]


def test_without_a_trainer_its_paths_are_not_there():
    with Cluster(None) as cluster:
        launcher = Launcher(cluster)
        assert list(launcher.page("/openapi/v3")["paths"]) == ["api/v1"]
        for call in (
            lambda: launcher.create(trainjob()),
            launcher.get,
            lambda: launcher.page("/openapi/v3/apis/trainer.kubeflow.org/v1alpha1"),
            lambda: launcher.page("/apis/trainer.kubeflow.org/v1alpha1"),
        ):
            with pytest.raises(ApiException) as error:
                call()
            # As from a real server: no Status, for nothing serves the path.
            assert (error.value.status, error.value.body) == (404, "404 page not found\n")


@pytest.mark.parametrize(
    ("trainer", "wrong", "path"),
    [
        ("2.1", "2.3", "spec.runtimePatches"),
        ("2.2", "2.1", "spec.podTemplateOverrides"),
        ("2.3", "2.1", "spec.podTemplateOverrides"),
        ("unknown", "2.3", "spec.runtimePatches"),
    ],
)
def test_a_field_that_the_generation_does_not_know_is_an_error_if_strict_and_pruned_if_not(
    trainer: str, wrong: str, path: str, any_schema: None
):
    with Cluster(trainer) as cluster:
        launcher, body = Launcher(cluster), with_pod_settings(wrong, {"nodeSelector": {"a": "b"}})
        status, answer = refusal(lambda: launcher.create(body, field_validation="Strict"))
        assert (status, answer["reason"], answer["message"]) == (
            400,
            "BadRequest",
            'TrainJob in version "v1alpha1" cannot be handled as a TrainJob: strict decoding error: '
            f'unknown field "{path}"',
        )
        assert cluster.trainjobs == []
        created = launcher.create(body)
        assert path.removeprefix("spec.") not in created["spec"] and launcher.get()["spec"] == created["spec"]


@pytest.mark.parametrize("trainer", ["2.1", "2.2", "2.3"])
def test_what_the_generation_knows_is_stored_whole_and_with_defaults(trainer: str, any_schema: None):
    pod = {
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "pvc"}}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                }
            }
        },
        "containers": [{"name": "node", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
    }
    body = with_pod_settings(
        trainer,
        pod,
        {"team": "x"},
        numProcPerNode=2,
        command=["python"],
        resourcesPerNode={"limits": {"nvidia.com/gpu": "2"}, "requests": {"cpu": "8", "memory": "32Gi"}},
        env=[{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}],
    )
    with Cluster(trainer, life=lambda job: job.create_pods()) as cluster:
        launcher = Launcher(cluster)
        stored = launcher.create(body, field_validation="Strict")
        assert stored["spec"]["trainer"] == body["spec"]["trainer"]
        assert stored["spec"]["runtimeRef"] == {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "ClusterTrainingRuntime",
            "name": "training-hub",
        }
        assert stored["spec"]["suspend"] is False
        until(launcher.pods)
        made = launcher.pods(NODE_0 + ",team=x")[0].to_dict()["spec"]
        assert made["node_selector"] == {"gpu": "h200"} and made["affinity"]["node_affinity"]
        assert made["volumes"][0]["persistent_volume_claim"]["claim_name"] == "pvc"
        assert made["containers"][0]["volume_mounts"][0]["mount_path"] == "/data"
        assert made["containers"][0]["env"][0]["name"] == "HF_TOKEN"


@pytest.mark.parametrize(
    ("trainer", "settings", "causes"),
    [
        ("2.3", {"numNodes": "two"}, {"spec.trainer.numNodes": "FieldValueTypeInvalid"}),
        ("2.3", {"numProcPerNode": "auto"}, {"spec.trainer.numProcPerNode": "FieldValueTypeInvalid"}),
        ("2.1", {"numProcPerNode": 1.5}, {"spec.trainer.numProcPerNode": "FieldValueTypeInvalid"}),
        ("2.2", {"command": ["x" * 65537]}, {"spec.trainer.command[0]": "FieldValueTooLong"}),
        ("2.2", {"env": [{"name": f"A{number}"} for number in range(129)]}, {"spec.trainer.env": "FieldValueTooMany"}),
        ("2.1", {"env": [{"value": "x"}]}, {"spec.trainer.env[0].name": "FieldValueRequired"}),
        ("2.1", {"env": [{"name": "A"}, {"name": "A"}]}, {"spec.trainer.env[1]": "FieldValueDuplicate"}),
        (
            "2.3",
            {"resourcesPerNode": {"limits": {"memory": "32 GB"}}, "numNodes": []},
            {
                "spec.trainer.numNodes": "FieldValueTypeInvalid",
                "spec.trainer.resourcesPerNode.limits.memory": "FieldValueInvalid",
            },
        ),
    ],
)
def test_a_body_against_the_schema_is_invalid_with_its_causes(
    trainer: str, settings: Body, causes: dict[str, str], any_schema: None
):
    with Cluster(trainer) as cluster:
        status, answer = refusal(lambda: Launcher(cluster).create(trainjob(**settings)))
        assert (status, answer["reason"]) == (422, "Invalid")
        assert {cause["field"]: cause["reason"] for cause in answer["details"]["causes"]} == causes
        assert answer["message"].startswith('TrainJob.trainer.kubeflow.org "train" is invalid: ')


@pytest.mark.parametrize(
    ("trainer", "settings"),
    [
        ("2.1", {"numProcPerNode": "auto"}),
        ("2.1", {"command": ["x" * 70000]}),
        ("2.3", {"command": ["x" * 70000]}),
        ("2.3", {"resourcesPerNode": {"limits": {"cpu": 2, "memory": "32Gi"}}}),
    ],
)
def test_what_one_generation_refuses_another_takes(trainer: str, settings: Body, any_schema: None):
    with Cluster(trainer) as cluster:
        assert Launcher(cluster).create(trainjob(**settings), field_validation="Strict")


@pytest.mark.parametrize("generation", ["2.1", "2.2", "2.3"])
def test_our_schema_says_what_the_crd_says_of_every_field_it_has(generation: str):
    crd = schema.crd_schema(generation)
    if crd is None:
        pytest.skip("the CRDs are not at hand")

    limits = {"maxItems", "maxLength", "minLength", "pattern", "enum", "required", "default"}

    def compare(ours: Body, theirs: Body, path: str) -> None:
        if ours.get("x-kubernetes-preserve-unknown-fields"):
            theirs = {**theirs, "x-kubernetes-preserve-unknown-fields": True}
        # What a client never sends needs no limits.
        words = set(ours) | (set() if path.startswith("status") else limits)
        for word in words - {"properties", "items", "additionalProperties", "x-kubernetes-validations"}:
            assert ours.get(word) == theirs.get(word), f"{path}: {word}"
        rules = [one["rule"] for one in theirs.get("x-kubernetes-validations", ())]
        assert all(one["rule"] in rules for one in ours.get("x-kubernetes-validations", ())), path
        for name, part in ours.get("properties", {}).items():
            compare(part, theirs["properties"][name], f"{path}.{name}".removeprefix("."))
        for word, step in (("items", "[]"), ("additionalProperties", "{}")):
            if word in ours:
                compare(ours[word], theirs[word], path + step)

    compare(compact_schema(generation), crd, "")


# Webhooks


@pytest.mark.parametrize("trainer", ["2.1", "2.3"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"pod": {"containers": [{"name": "node", "env": [{"name": "A", "value": "1"}]}]}},
            "must not have envs for the dataset-initializer, model-initializer, node containers",
        ),
        (
            {"pod": {"containers": [{"name": "other"}]}},
            "must not have container that doesn't exist in the runtime job node",
        ),
        (
            {"trainer": {"env": [{"name": "PET_NNODES", "value": "2"}]}},
            "must not have reserved envs, invalid envs configured: [PET_NNODES]",
        ),
        (
            {"runtime": {"name": "nowhere"}},
            'spec.RuntimeRef: Invalid value: {"name":"nowhere","apiGroup":"trainer.kubeflow.org",'
            '"kind":"ClusterTrainingRuntime"}: ClusterTrainingRuntime.trainer.kubeflow.org "nowhere" not found: '
            "specified clusterTrainingRuntime must be created before the TrainJob is created",
        ),
        ({"runtime": {"name": "training-hub", "kind": "TrainingRuntime"}}, "specified trainingRuntime must be created"),
        ({"runtime": {"name": "x", "kind": "Other"}}, "unsupported runtime: Other.trainer.kubeflow.org"),
    ],
)
def test_the_webhook_refuses_with_403_what_the_trainer_does_not_take(trainer: str, change: Body, sentence: str):
    body = with_pod_settings(trainer, change.get("pod", {}), **change.get("trainer", {}))
    body["spec"]["runtimeRef"] = change.get("runtime", body["spec"]["runtimeRef"])
    with Cluster(trainer) as cluster:
        status, answer = refusal(lambda: Launcher(cluster).create(body, field_validation="Strict"))
        assert status == 403
        assert answer["message"].startswith(
            'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: '
        )
        assert sentence in answer["message"]


@pytest.mark.parametrize(("name", "said"), [("a" * 64, "no more than 63"), ("1train", "RFC 1035")])
def test_a_name_that_is_no_dns_label_is_invalid(name: str, said: str, any_schema: None):
    with Cluster() as cluster:
        status, answer = refusal(lambda: Launcher(cluster).create(trainjob(name)))
        assert status == 422 and said in answer["message"]


def test_a_name_over_48_characters_is_taken_and_then_gets_no_pods():
    with Cluster(life=Job.start) as cluster:
        launcher = Launcher(cluster)
        launcher.create(trainjob("a" * 49))
        events = launcher.core.list_namespaced_event("ns", field_selector="involvedObject.name=" + "a" * 49).items
        assert [event.reason for event in events] == ["TrainJobResourcesCreationFailed"]
        assert cluster.pods == []
