import base64

import pytest
import yaml

from helpers.places import COMPILED
from kfp_osft.pipelines import cli
from kfp_osft.pipelines.osft.manifest import manifest
from kfp_osft.stages.package import config_map_name, package_archive


def test_the_manifest_is_the_code_the_role_and_its_binding():
    code, role, binding = yaml.safe_load_all(manifest())
    assert (code["kind"], code["metadata"]["name"], code["immutable"]) == ("ConfigMap", config_map_name(), True)
    assert base64.b64decode(code["binaryData"]["kfp_osft.json.bz2"]) == package_archive()
    assert role["metadata"]["name"] == binding["roleRef"]["name"] == binding["metadata"]["name"] == "osft-launcher"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pipeline-runner-dspa"}]


def test_the_manifest_is_small_enough_for_kubectl_apply():
    assert len(manifest().encode()) < 200_000


def test_the_compiled_folder_has_the_manifest_of_the_sources():
    assert (COMPILED / "kfp-osft.yaml").read_text() == manifest(), "write it with: kfp-osft compile"


def test_the_command_prints_it_with_other_names_or_without_the_role(capsys):
    assert cli.main(["manifest", "--service-account", "runner", "--role", "trainer"]) == 0
    assert capsys.readouterr().out == manifest("runner", "trainer")
    assert cli.main(["manifest", "--no-role"]) == 0
    assert [document["kind"] for document in yaml.safe_load_all(capsys.readouterr().out)] == ["ConfigMap"]


@pytest.mark.parametrize("option", ["--service-account", "--role"])
def test_a_name_that_kubernetes_does_not_take_is_refused(option, capsys):
    assert cli.main(["manifest", option, "Not A Name"]) == 2
    assert "'Not A Name' is not a valid name" in capsys.readouterr().err
