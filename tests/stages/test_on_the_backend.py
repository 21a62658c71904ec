"""Each stage as KFP's backend runs it, with what the real driver of OpenShift AI 3.5 (KFP 2.16.1) handed over."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fakes.s3 import S3Server
from helpers.backend_pod import RANDOM_USER, BackendPod, Ran, needs_cases
from helpers.trained_folder import make_trained_folder
from kfp_osft import stages

pytestmark = needs_cases

RUN = "6715d275b969"


@pytest.fixture
def pod(tmp_path: Path) -> BackendPod:
    return BackendPod(tmp_path / "pod")


@pytest.fixture
def trained(pod: BackendPod, tiny_model: Path) -> Path:
    """The checkpoint folder of the cases, on rows that were fetched from S3."""
    base = shutil.copytree(tiny_model, pod.workspace / "base_models" / "fe5b6b3839e7" / "tiny")
    folder = make_trained_folder(pod.workspace / "checkpoints" / RUN, base)
    rows = pod.workspace / "datasets" / "s3-mydata-rows.jsonl-4c08bf38337f"
    rows.mkdir(parents=True)
    (rows / ".manifest.json").write_text(json.dumps({"made_from": {}, "source": {"uri": "s3://mydata/rows.jsonl"}}))
    run = json.loads((folder / "osft_run.json").read_text())
    run["about"] |= {"base_model": "oci://registry.example/models/tiny:1", "dataset": str(rows / "rows.jsonl")}
    (folder / "osft_run.json").write_text(json.dumps(run))
    (folder / "training.log").write_text("step 1 of 8\n")
    return folder


def complete(ran: Ran) -> Ran:
    assert ran.code == 0, ran.log
    assert "Traceback" not in ran.log
    return ran


def flat(metadata: dict[str, Any]) -> bool:
    return all(isinstance(value, (str, int, float)) and not isinstance(value, bool) for value in metadata.values())


# resolve_dataset


def test_rows_come_by_uri_from_s3(pod: BackendPod, chat_rows: Path, s3_server: S3Server):
    s3_server.put("mydata", "rows.jsonl", chat_rows.read_bytes())

    ran = complete(pod.run(stages.resolve_dataset, pod.case("resolve_dataset"), **s3_server.environment))

    assert ran.parameters["num_rows"] == 32
    copy = Path(ran.parameters["dataset_path"])
    assert copy.is_relative_to(pod.workspace) and copy.read_bytes() == chat_rows.read_bytes()
    assert copy.stat().st_uid == (RANDOM_USER if os.geteuid() == 0 else os.geteuid())


def test_a_dataset_arrives_from_an_upstream_task(pod: BackendPod, chat_rows: Path):
    case = pod.case("resolve_dataset-upstream")
    rows = pod.path_of(case["inputs"]["artifacts"]["dataset"]["artifacts"][0]["uri"])
    rows.parent.mkdir(parents=True)
    # KFP's files have no extension.
    shutil.copy(chat_rows, rows)

    ran = complete(pod.run(stages.resolve_dataset, case))

    assert ran.parameters["num_rows"] == 32
    assert Path(ran.parameters["dataset_path"]).is_relative_to(pod.workspace)


def test_an_upstream_dataset_that_names_a_place_in_its_metadata_is_found(pod: BackendPod, chat_rows: Path):
    shutil.copy(chat_rows, pod.workspace / "rows.jsonl")
    case = pod.case("resolve_dataset-upstream")
    artifact = case["inputs"]["artifacts"]["dataset"]["artifacts"][0]
    artifact["metadata"] |= {
        # A dictionary, as the backend hands it on.
        "pvc_path": {"struct": {"train": "rows.jsonl"}},
        "pvc_dir": str(pod.workspace / "rows.jsonl"),
    }

    ran = complete(pod.run(stages.resolve_dataset, case))

    assert ran.parameters["dataset_path"] == str(pod.workspace / "rows.jsonl")


def test_an_imported_dataset_is_fetched_with_the_tasks_own_variables(
    pod: BackendPod, chat_rows: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
):
    """The launcher asks the AWS SDK, which reads these alone (`fromEnv` in the artifact's session)."""
    s3_server.put("mydata", "rows.jsonl", chat_rows.read_bytes())
    for name in s3_server.environment:
        monkeypatch.delenv(name, raising=False)
    variables = {
        "AWS_ACCESS_KEY_ID": s3_server.environment["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": s3_server.environment["AWS_SECRET_ACCESS_KEY"],
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    case = pod.case("resolve_dataset-importer")
    artifact = case["inputs"]["artifacts"]["dataset"]["artifacts"][0]
    session = json.loads(artifact["metadata"]["store_session_info"])
    assert session == {"Provider": "s3", "Params": {"fromEnv": "true"}}

    import boto3

    bucket, _, key = artifact["uri"].removeprefix("s3://").partition("/")
    rows = pod.path_of(artifact["uri"])
    rows.parent.mkdir(parents=True)
    boto3.client("s3").download_file(bucket, key, str(rows))
    ran = complete(pod.run(stages.resolve_dataset, case, **variables))

    assert ran.parameters["num_rows"] == 32


def test_without_rows_it_says_what_to_give_and_what_stays(pod: BackendPod):
    case = pod.case("resolve_dataset")
    case["inputs"]["parameterValues"]["dataset_uri"] = ""

    ran = pod.run(stages.resolve_dataset, case)

    assert ran.code and "Traceback" not in ran.log
    stays, error, end = ran.log.splitlines()[-3:]
    assert stays.startswith("The run's volume stays, with all that is in ") and "until the run is deleted" in stays
    assert error.startswith("Error: no dataset: give dataset_uri (")
    assert end.startswith("Stage failed after ")


# preprocess


def test_rows_are_tokenized_and_the_report_is_an_artifact(pod: BackendPod, chat_rows: Path, tiny_model: Path):
    case = pod.case("preprocess")
    given = case["inputs"]["parameterValues"]
    rows = Path(given["dataset_path"])
    rows.parent.mkdir(parents=True)
    shutil.copy(chat_rows, rows)
    given["training_base_model"] = str(shutil.copytree(tiny_model, pod.workspace / "model"))

    ran = complete(pod.run(stages.preprocess, case))

    assert ran.parameters["num_samples"] == 32
    assert Path(ran.parameters["data_path"]).is_relative_to(pod.workspace)
    assert json.loads(ran.uploads["output_report"][""])["samples"] == 32


# launch_trainjob


def test_a_training_that_is_complete_is_taken_from_the_workspace(pod: BackendPod, trained: Path):
    case = pod.case("launch_trainjob")
    given = case["inputs"]["parameterValues"]
    config = json.loads(given["training_config"])
    run = json.loads((trained / "osft_run.json").read_text())
    from kfp_osft.shared.files.manifests import write_manifest

    (trained / "_internal_data_processing" / "data.jsonl").write_text("")
    about = {key: run[key] for key in ("trainjob_name", "osft", "about")}
    write_manifest(trained / "osft_run.json", config["fingerprint"], (), checkpoint=None, **about)

    ran = complete(pod.run(stages.launch_trainjob, case))

    assert ran.parameters == {"checkpoint_dir": str(trained), "trainjob_name": "local-x"}


# After the training


def test_the_metrics_are_flat_and_the_table_and_the_log_are_artifacts(pod: BackendPod, trained: Path):
    ran = complete(pod.run(stages.collect_metrics, pod.case("collect_metrics")))

    metrics = ran.artifacts["output_metrics"]["metadata"]
    assert metrics["final_loss"] == 4.0 and flat(metrics)
    assert len(ran.uploads["output_steps"][""].splitlines()) == 8
    assert ran.uploads["output_training_log"] == {"": b"step 1 of 8\n"}
    assert pod.path_of(ran.artifacts["output_steps"]["uri"]).is_symlink()


def test_the_chart_is_one_page(pod: BackendPod, trained: Path):
    complete(pod.run(stages.collect_metrics, pod.case("collect_metrics")))

    ran = complete(pod.run(stages.render_loss_chart, pod.case("render_loss_chart")))

    assert ran.uploads["output_loss_chart"][""].startswith(b"<!DOCTYPE html>")


def test_the_model_is_uploaded_from_the_workspace_without_a_copy(pod: BackendPod, trained: Path):
    ran = complete(pod.run(stages.export_model, pod.case("export_model")))

    assert ran.parameters == {"Output": "training completed"}
    model = pod.workspace / "final_model"
    assert ran.uploads["output_model"] == {
        str(file.relative_to(model)): file.read_bytes() for file in model.rglob("*") if file.is_file()
    }
    artifact = pod.path_of(ran.artifacts["output_model"]["uri"])
    files = [file for file in artifact.rglob("*") if file.is_symlink() or file.is_file()]
    assert files and all(file.is_symlink() for file in files)
    # Its files are this run's, also when final_model is another's by the time of the upload.
    assert all(pod.workspace / "models" / RUN in file.resolve().parents for file in files)


def test_the_artifact_names_no_place_that_goes_with_the_run(pod: BackendPod, trained: Path):
    ran = complete(pod.run(stages.export_model, pod.case("export_model")))

    described = ran.artifacts["output_model"]
    metadata = described["metadata"]
    assert flat(metadata)
    assert str(pod.workspace) not in json.dumps(metadata)
    assert (
        metadata["artifact_path"]
        == described["uri"]
        == pod.case("export_model")["outputs"]["artifacts"]["output_model"]["artifacts"][0]["uri"]
    )
    assert (metadata["base_model"], metadata["dataset"]) == (
        "oci://registry.example/models/tiny:1",
        "s3://mydata/rows.jsonl",
    )
    assert metadata["training_unfreeze_rank_ratio"] == 0.25 and metadata["final_loss"] == 4.0
    run = json.loads(ran.uploads["output_model"]["osft_run.json"])
    assert str(pod.workspace) not in json.dumps(run)
    assert run["dataset"]["uri"] == "s3://mydata/rows.jsonl"
    assert run["parameters"]["training_base_model"] == "oci://registry.example/models/tiny:1"
    card = ran.uploads["output_model"]["README.md"].decode()
    assert "s3://mydata/rows.jsonl" in card and str(pod.workspace) not in card


@pytest.mark.slow
def test_all_stages_of_a_run_in_one_workspace(pod: BackendPod, chat_rows: Path, tiny_model: Path):
    case = pod.case("resolve_dataset-upstream")
    artifact = case["inputs"]["artifacts"]["dataset"]["artifacts"][0]
    rows = pod.path_of(artifact["uri"])
    rows.parent.mkdir(parents=True)
    shutil.copy(chat_rows, rows)
    resolved = complete(pod.run(stages.resolve_dataset, case))

    case = pod.case("preprocess")
    case["inputs"]["parameterValues"] |= {
        "dataset_path": resolved.parameters["dataset_path"],
        "training_base_model": str(shutil.copytree(tiny_model, pod.workspace / "model")),
    }
    prepared = complete(pod.run(stages.preprocess, case))

    case = pod.case("launch_trainjob")
    case["inputs"]["parameterValues"]["training_config"] = prepared.parameters["training_config"]
    launched = complete(pod.run(stages.launch_trainjob, case, OSFT_LAUNCHER="local"))

    case = pod.case("collect_metrics")
    case["inputs"]["parameterValues"]["checkpoint_dir"] = launched.parameters["checkpoint_dir"]
    collected = complete(pod.run(stages.collect_metrics, case))
    assert b"loss" in collected.uploads["output_training_log"][""]

    case = pod.case("render_loss_chart")
    case["inputs"]["parameterValues"] |= collected.parameters
    complete(pod.run(stages.render_loss_chart, case))

    case = pod.case("export_model")
    case["inputs"]["parameterValues"]["checkpoint_dir"] = launched.parameters["checkpoint_dir"]
    exported = complete(pod.run(stages.export_model, case))
    assert exported.artifacts["output_model"]["metadata"]["dataset"] == artifact["uri"]
