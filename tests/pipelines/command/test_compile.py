from pathlib import Path

import pytest
import yaml

import kfp_osft
from kfp_osft.pipelines import PipelineSettings
from kfp_osft.pipelines.cli import main
from kfp_osft.pipelines.command import compile_
from kfp_osft.pipelines.command.compile_ import form_defaults
from kfp_osft.pipelines.osft.form import OWN_PARAMETERS
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.component import PULL_POLICIES, STAGE_IMAGE
from kfp_osft.stages.package import CORE, EVALUATION

DIGEST = f"registry.example.com/team/kfp-osft@sha256:{'0' * 64}"


def compiled(folder: Path, *options: str, name: str = "osft_pipeline") -> tuple[dict, dict]:
    """The two documents of a compiled pipeline."""
    assert main(["compile", "--output-dir", str(folder), *options]) == 0
    specification, platform = yaml.safe_load_all((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return specification, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    options = (
        "--set=training_base_model=org/model",
        "--set=num-epochs=3",
        "--set=training_learning_rate=1e-4",
        "--set=check_matrices=8",
        "--set=dataset_uri=s3://bucket/rows",
        "--name=our-fine-tuning",
        f"--image={DIGEST}",
        "--pull-policy=IfNotPresent",
    )
    compiled(folder, *options)
    return folder


def _documents(folder: Path, name: str) -> list[dict]:
    return list(yaml.safe_load_all((folder / f"{name}.yaml").read_text(encoding="utf-8")))


def test_the_form_has_the_defaults_that_were_set(changed):
    form = _documents(changed, "osft_pipeline")[0]["root"]["inputDefinitions"]["parameters"]

    assert form["training_base_model"]["defaultValue"] == "org/model"
    assert form["training_num_epochs"]["defaultValue"] == 3
    assert form["training_learning_rate"]["defaultValue"] == 1e-4
    assert form["check_matrices"]["defaultValue"] == 8
    assert form["dataset_uri"]["defaultValue"] == "s3://bucket/rows"
    assert form["training_effective_batch_size"]["defaultValue"] == 128


def test_the_stages_own_forms_have_them_too(changed):
    form = _documents(changed, "preprocess")[0]["root"]["inputDefinitions"]["parameters"]
    assert form["training_num_epochs"]["defaultValue"] == 3


def test_the_pipeline_has_the_name_that_was_given(changed):
    assert _documents(changed, "osft_pipeline")[0]["pipelineInfo"]["name"] == "our-fine-tuning"


def test_all_stages_have_the_image_by_digest_and_the_pull_policy(changed):
    specification, platform = _documents(changed, "osft_pipeline")
    executors = specification["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {DIGEST}
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert len(configs) == 6
    assert {config["imagePullPolicy"] for config in configs} == {"IfNotPresent"}


def test_the_form_says_of_each_parameter_where_it_belongs_and_what_is_required(changed):
    form = _documents(changed, "osft_pipeline")[0]["root"]["inputDefinitions"]["parameters"]
    groups: dict[str, list[str]] = {}
    for name, parameter in form.items():
        groups.setdefault(parameter["description"].partition("]")[0].removeprefix("["), []).append(name)

    assert set(groups) == {"Required", "Basic", "Rows", "Training", "OSFT", "Results", "Cluster", "Compatibility"}
    assert groups["Required"] == ["dataset_uri"]
    assert "training_base_model" in groups["Basic"] and len(groups["Basic"]) < 10


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ([], f"ConfigMap {CORE.config_map}, or the image"),
        (["--evaluate"], f"ConfigMaps {CORE.config_map} and {EVALUATION.config_map}, or the image"),
        (["--package", "kfp-osft==0.1.0"], "pip install kfp-osft==0.1.0"),
    ],
)
def test_the_yaml_names_version_and_source(tmp_path, options, source):
    description = compiled(tmp_path, *options)[0]["pipelineInfo"]["description"]
    assert f"Compiled with kfp-osft {kfp_osft.__version__}; code of the stages: {source}." in description


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["foo=1"], "--set foo=1: no parameter foo"),
        (["training_num_epoch=1"], "no parameter training_num_epoch; did you mean training_num_epochs?"),
        (["num_epochs"], "--set num_epochs: has no =; allowed: NAME=VALUE"),
        (["num_epochs=two"], "--set num_epochs=two: not an integer"),
        (["check_matrices=few"], "--set check_matrices=few: not an integer"),
        (["num_epochs=1", "training_num_epochs=2"], "training_num_epochs is set twice"),
        (["training_num_epochs=0"], "training_num_epochs=0 is not allowed"),
        (["training_envs=HF_TOKEN=hf_x"], "looks like a secret"),
        (["gate=yes"], "--set gate=yes: not true or false"),
        (["max-forgeting=0.1"], "no parameter max-forgeting; did you mean max_forgetting?"),
        (["num-epoch=1"], "no parameter num-epoch; did you mean num_epochs?"),
    ],
)
def test_a_default_that_cannot_be_is_refused(given, problem):
    with pytest.raises(InputError) as error:
        form_defaults(given, evaluates=True)
    assert problem in str(error.value)


def test_parameters_of_an_evaluation_can_be_set_where_there_is_one(tmp_path, capsys):
    specification, _ = compiled(tmp_path, "--evaluate", "--set=gate=true", "--set=max-forgetting=0.2")
    form = specification["root"]["inputDefinitions"]["parameters"]
    assert (form["gate"]["defaultValue"], form["max_forgetting"]["defaultValue"]) == (True, 0.2)

    assert main(["compile", "--output-dir", str(tmp_path), "--set=gate=true"]) == 2
    assert "--set gate=true: needs --evaluate or --sequence" in capsys.readouterr().err
    assert main(["compile", "--output-dir", str(tmp_path), "--evaluate", "--set=max_forgetting=-1"]) == 2
    assert "max_forgetting=-1.0 is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "hint"), [("training_num_epoch", "; did you mean training_num_epochs?"), ("xyzzy", "")]
)
def test_a_default_of_no_parameter_is_refused(name, hint):
    with pytest.raises(InputError) as error:
        PipelineSettings(defaults={name: 1})
    assert str(error.value) == f"{name} is not a parameter of osft_pipeline{hint}"


def test_a_name_that_kubernetes_would_not_take_is_refused(tmp_path, capsys):
    assert main(["compile", "--output-dir", str(tmp_path / "out"), "--name", "Our Pipeline"]) == 2
    assert "the pipeline's name 'Our Pipeline' is not a valid name" in capsys.readouterr().err


def test_the_options_are_those_of_the_pipeline():
    from kfp_osft.pipelines import osft_pipeline

    own = {name for name in osft_pipeline.component_spec.inputs if name not in compile_.PARAMETERS}
    assert own == set(OWN_PARAMETERS)
    assert compile_._PULL_POLICIES == PULL_POLICIES
    assert ":" in STAGE_IMAGE
