import os
import subprocess
import sys
from pathlib import Path

import kfp
import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

# Other tests may put another folder in the place of kfp_osft.shared; this one is the repository's.
from helpers.files import contents
from helpers.places import COMPILED
from kfp_osft import stages
from kfp_osft.pipelines.osft.compiling import MANIFESTS, compile_all
from kfp_osft.pipelines.osft.sub_pipeline import PipelineSettings
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.component import StageSettings

# The version of KFP that compiled/ is made with; it writes its own version into the files.
KFP_VERSION = "2.17.0"
PIPELINES = ["osft_pipeline.yaml", *(f"{name}.yaml" for name in stages.__all__)]
NAMES = [*PIPELINES, "kfp-osft.yaml", "kfp-osft-evaluate.yaml"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """A folder with all YAML, made from the sources as they are."""
    folder = tmp_path_factory.mktemp("compiled")
    compile_all(folder)
    return folder


def test_the_pipeline_and_each_stage_get_a_file(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert compile_all(folder) == [folder / name for name in NAMES]
    assert sorted(contents(folder)) == sorted(NAMES)


def test_compiling_again_gives_the_same_bytes(fresh, tmp_path):
    (tmp_path / "osft_pipeline.yaml").write_text("something older")
    compile_all(tmp_path)
    assert contents(tmp_path) == contents(fresh)


def test_another_process_day_place_and_user_give_the_same_bytes(fresh, tmp_path):
    program = (
        "import os, sys, time; from pathlib import Path; os.umask(0o077); time.time = lambda: 1e9; "
        "from kfp_osft.pipelines.osft.compiling import compile_all; compile_all(Path(sys.argv[1]))"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "1234",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
        "COLUMNS": "40",
        "HOME": str(tmp_path),
        "USER": "somebody",
        "LOGNAME": "somebody",
    }
    subprocess.run([sys.executable, "-c", program, "out"], cwd=tmp_path, env=environment, check=True)
    assert contents(tmp_path / "out") == contents(fresh)


@pytest.mark.skipif(kfp.__version__ != KFP_VERSION, reason=f"compiled/ is made with kfp {KFP_VERSION}")
@pytest.mark.skipif(not contents(COMPILED), reason="compiled/ holds no YAML")
@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_is_what_the_sources_give(fresh, name):
    committed = COMPILED / name
    # Not the whole text in the message: it holds archives.
    same = committed.is_file() and committed.read_bytes() == (fresh / name).read_bytes()
    assert same, f"compiled/{name} is not what the sources give; write it with: kfp-osft compile"


def test_the_committed_folder_holds_nothing_else():
    assert sorted(contents(COMPILED).keys() - NAMES) == [], "write it anew with: kfp-osft compile"


@pytest.mark.parametrize("name", PIPELINES)
def test_a_file_is_what_an_upload_takes(fresh, name):
    specification, platform = yaml.safe_load_all((fresh / name).read_text(encoding="utf-8"))
    json_format.ParseDict(specification, PipelineSpec(), ignore_unknown_fields=False)
    json_format.ParseDict(platform, PlatformSpec(), ignore_unknown_fields=False)


def test_the_pipeline_loads_as_a_component_with_the_inputs_and_outputs_of_its_source(fresh):
    from kfp_osft.pipelines import osft_pipeline

    loaded = components.load_component_from_file(str(fresh / "osft_pipeline.yaml")).component_spec
    source = osft_pipeline.component_spec
    for part in ("inputs", "outputs"):
        expected, found = ({key: spec.type for key, spec in getattr(of, part).items()} for of in (source, loaded))
        assert found == expected
    assert {key: spec.default for key, spec in loaded.inputs.items()} == {
        key: spec.default for key, spec in source.inputs.items()
    }


@pytest.mark.parametrize("name", stages.__all__)
def test_a_stage_alone_has_a_form_of_values_and_the_claim_that_it_mounts(fresh, name):
    specification, platform = yaml.safe_load_all((fresh / f"{name}.yaml").read_text(encoding="utf-8"))
    form = specification["root"]["inputDefinitions"]
    own = getattr(stages, name).component_spec.inputs
    values = {key for key, spec in own.items() if spec.type in ("String", "Integer", "Float", "Boolean")}
    assert "artifacts" not in form, "the driver fails on an optional artifact of a root that is left out"
    assert set(form["parameters"]) == {"claim"} | values - {"run_name", "run_id", "task_name"}
    assert all(parameter["description"] for parameter in form["parameters"].values())
    executor = f"exec-{name.replace('_', '-')}"
    config = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][executor]
    assert config["pvcMount"] == [
        {
            "componentInputParameter": "claim",
            "mountPath": "/workspace",
            "pvcNameParameter": {"componentInputParameter": "claim"},
        }
    ]
    assert "kfp-workspace" not in (fresh / f"{name}.yaml").read_text()


def test_a_pipeline_that_argo_could_not_keep_is_refused_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("kfp_osft.pipelines.osft.compiling.MOST", 0.01)
    with pytest.raises(InputError, match=r"osft_pipeline.yaml: its Workflow would take [\d,]+ of the 1,048,576 bytes"):
        compile_all(tmp_path)
    assert not list(tmp_path.iterdir())


def _platform(folder: Path) -> dict:
    _, platform = yaml.safe_load_all((folder / "osft_pipeline.yaml").read_text(encoding="utf-8"))
    return platform["platforms"]["kubernetes"]


def _containers(folder: Path) -> list[dict]:
    return [
        executor["container"]
        for file in sorted(folder.glob("*.yaml"))
        if file.name not in MANIFESTS
        for executor in next(yaml.safe_load_all(file.read_text(encoding="utf-8")))["deploymentSpec"][
            "executors"
        ].values()
    ]


def test_the_workspace_is_as_it_was_asked_for(tmp_path):
    compile_all(tmp_path, PipelineSettings(workspace_size="5Gi", storage_class="nfs", access_modes=("ReadWriteOnce",)))

    assert _platform(tmp_path)["pipelineConfig"]["workspace"] == {
        "size": "5Gi",
        "kubernetes": {"pvcSpecPatch": {"accessModes": ["ReadWriteOnce"], "storageClassName": "nfs"}},
    }


def test_a_secret_has_the_name_that_was_asked_for_and_the_others_theirs(tmp_path):
    compile_all(tmp_path, PipelineSettings(secret_names={"s3": "my-s3"}))

    names = {
        secret["secretName"]
        for executor in _platform(tmp_path)["deploymentSpec"]["executors"].values()
        for secret in executor.get("secretAsEnv", [])
    }
    others = {"kubernetes-credentials", "hf-token", "oci-pull-secret-model-download", "mlflow-credentials"}
    assert names == {"my-s3", *others}


def test_a_secret_for_an_unknown_purpose_is_an_error():
    with pytest.raises(InputError, match=r"secret_names has 'hub'; allowed: kubernetes, hugging_face, oci, s3, mlflow"):
        PipelineSettings(secret_names={"hub": "mine"})


def test_every_stage_runs_in_the_image_that_was_asked_for(tmp_path):
    compile_all(tmp_path, PipelineSettings(stages=StageSettings(image="registry.example/mine:1")))

    assert {container["image"] for container in _containers(tmp_path)} == {"registry.example/mine:1"}


def test_without_pip_nothing_is_installed_and_the_program_is_the_same(fresh, tmp_path):
    compile_all(tmp_path, PipelineSettings(stages=StageSettings(pip=False)))

    with_pip, without = _containers(fresh), _containers(tmp_path)
    assert len(without) == len(with_pip) == 13
    for container, same in zip(without, with_pip, strict=True):
        assert "pip" not in " ".join(container["command"][:-1])
        assert container["command"] == same["command"][3:]
        assert container["args"] == same["args"]
