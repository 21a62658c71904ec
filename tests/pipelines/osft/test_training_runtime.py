"""The runtime for administrators."""

import io

import pytest
import yaml

from kfp_osft.pipelines.cli import main
from kfp_osft.pipelines.osft.training_runtime import with_failure_policy
from kfp_osft.shared.reporting.errors import InputError


def installed(**metadata):
    """A runtime as `kubectl get -o yaml` prints one of RHOAI's."""
    container = {"name": "node", "image": "quay.io/example/training-hub:1"}
    job = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"template": {"spec": {"containers": [container]}}},
        },
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {
            "name": "training-hub",
            "uid": "1",
            "resourceVersion": "7",
            "labels": {
                "trainer.kubeflow.org/framework": "training-hub",
                "platform.opendatahub.io/part-of": "trainer",
            },
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
            **metadata,
        },
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
            "template": {"spec": {"replicatedJobs": [job]}},
        },
    }


def test_it_ends_at_errors_that_would_come_again_and_replaces_what_is_taken_away(capsys, tmp_path):
    file = tmp_path / "runtime.yaml"
    file.write_text(yaml.safe_dump(installed()))

    assert main(["runtime", str(file)]) == 0

    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["metadata"] == {
        "name": "training-hub-osft",
        "labels": {"trainer.kubeflow.org/framework": "training-hub"},
    }
    assert printed["spec"]["mlPolicy"] == installed()["spec"]["mlPolicy"]
    (job,) = printed["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert job["template"]["spec"]["backoffLimit"] == 3
    assert job["template"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    disruptions, codes = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert (disruptions["action"], codes["action"]) == ("Ignore", "FailJob")
    assert codes["onExitCodes"] == {"containerName": "node", "operator": "In", "values": [1, 78, 79]}


def test_it_is_read_from_standard_input_and_named_as_asked(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(installed(namespace="team"))))
    assert main(["runtime", "-", "--name", "mine"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["metadata"]["name"] == "mine"


def test_a_runtime_of_a_namespace_stays_in_it():
    runtime = {**installed(namespace="team"), "kind": "TrainingRuntime"}
    assert with_failure_policy(runtime)["metadata"]["namespace"] == "team"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Pod"}, "this is a Pod; allowed: ClusterTrainingRuntime, TrainingRuntime"),
        ({"spec": {"template": {"spec": {"replicatedJobs": [{"name": "launcher"}]}}}}, "has no replicated job 'node'"),
    ],
)
def test_what_is_no_runtime_that_trains_is_named(change, message):
    with pytest.raises(InputError, match=message):
        with_failure_policy({**installed(), **change})


def test_a_name_without_a_cluster_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.config_exception.ConfigException.__str__", lambda self: "none")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["runtime", "training-hub"]) == 2
    assert "training-hub is not a file, and no kubeconfig was found" in capsys.readouterr().err
