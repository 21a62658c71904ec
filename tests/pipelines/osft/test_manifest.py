import base64

import pytest
import yaml

from helpers.places import COMPILED
from kfp_osft.pipelines import cli
from kfp_osft.pipelines.osft.compiling import MANIFESTS
from kfp_osft.pipelines.osft.manifest import evaluation_manifest, manifest
from kfp_osft.stages.package import CORE, EVALUATION


def test_the_manifest_is_the_code_the_role_and_its_binding():
    code, role, binding = yaml.safe_load_all(manifest())
    assert (code["kind"], code["metadata"]["name"], code["immutable"]) == ("ConfigMap", CORE.config_map, True)
    assert base64.b64decode(code["binaryData"]["kfp_osft.json.bz2"]) == CORE.content()
    assert role["metadata"]["name"] == binding["roleRef"]["name"] == binding["metadata"]["name"] == "osft-launcher"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pipeline-runner-dspa"}]


def test_the_manifest_of_the_optional_stage_is_its_code_alone():
    (code,) = yaml.safe_load_all(evaluation_manifest())
    assert (code["kind"], code["metadata"]["name"], code["immutable"]) == ("ConfigMap", EVALUATION.config_map, True)
    assert base64.b64decode(code["binaryData"]["kfp_osft.json.bz2"]) == EVALUATION.content()


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_small_enough_for_kubectl_apply(name):
    # kubectl keeps a copy of what it applies in an annotation of at most 262,144 bytes.
    assert len(MANIFESTS[name]().encode()) < 200_000


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_compiled_folder_has_the_manifests_of_the_sources(name):
    file = COMPILED / name
    # Not the whole text in the message: it holds an archive.
    same = file.is_file() and file.read_text() == MANIFESTS[name]()
    assert same, "write it with: kfp-osft compile"


def test_the_command_prints_it_with_other_names_or_without_the_role(capsys):
    assert cli.main(["manifest", "--service-account", "runner", "--role", "trainer"]) == 0
    assert capsys.readouterr().out == manifest("runner", "trainer")
    assert cli.main(["manifest", "--no-role"]) == 0
    assert [document["kind"] for document in yaml.safe_load_all(capsys.readouterr().out)] == ["ConfigMap"]


def test_the_command_prints_the_optional_stages_code(capsys):
    assert cli.main(["manifest", "--evaluate"]) == 0
    assert capsys.readouterr().out == evaluation_manifest()


@pytest.mark.parametrize("option", [["--service-account", "runner"], ["--role", "trainer"], ["--no-role"]])
def test_an_option_of_the_role_does_not_go_with_the_optional_stages_code(option, capsys):
    assert cli.main(["manifest", "--evaluate", *option]) == 2
    assert "--evaluate prints no Role" in capsys.readouterr().err


def test_the_command_has_the_default_names_of_the_manifest(capsys):
    assert cli.main(["manifest"]) == 0
    assert capsys.readouterr().out == manifest()


@pytest.mark.parametrize("option", ["--service-account", "--role"])
def test_a_name_that_kubernetes_does_not_take_is_refused(option, capsys):
    assert cli.main(["manifest", option, "Not A Name"]) == 2
    assert "'Not A Name' is not a valid name" in capsys.readouterr().err
