"""A model as an image in a real registry."""

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from fakes.registry import PASSWORD, Layout, Registry, docker_config, link
from helpers.errors import error_of
from helpers.files import contents
from helpers.oci_models import needs_registry
from kfp_osft.shared.oci import registry as oci_registry
from kfp_osft.shared.oci.base_image import BASE_VARIABLE
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE
from kfp_osft.shared.push.destination import check_destination
from kfp_osft.shared.push.push import push_model
from kfp_osft.stages.preprocess.oci.model import pull_model

pytestmark = needs_registry


@pytest.fixture
def uri(registry: tuple[Registry, str], base_image: str, tmp_path: Path) -> str:
    return f"oci://{registry[0].host}/models/{tmp_path.name.replace('_', '-')}:1"


def inspected(uri: str, *options: str) -> dict:
    command = ["skopeo", "inspect", "--tls-verify=false", *options, uri.replace("oci://", "docker://")]
    # skopeo takes no tag beside a digest.
    command[-1] = re.sub(r":[^:/@]+@", "@", command[-1])
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_the_image_holds_the_model_below_models_on_top_of_the_base_image(
    registry: tuple[Registry, str], model: Path, uri: str, tmp_path: Path
):
    place = push_model(model, uri, "URI")

    manifest, config = inspected(uri, "--raw"), inspected(uri, "--config", "--raw")
    base = inspected(f"oci://{registry[1]}", "--raw")
    assert manifest["layers"][0] == base["layers"][0] and len(manifest["layers"]) == 3
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert config["rootfs"]["diff_ids"][-2:] == [layer["digest"] for layer in manifest["layers"][1:]]
    for layer in manifest["layers"][1:]:
        with tarfile.open(registry[0].stored(layer["digest"])) as archive:
            for member in archive:
                assert (member.uid, member.gid, member.mtime) == (0, 0, 0)
                assert member.mode == (0o755 if member.isdir() else 0o644)
    (only_weights,) = [member.name for member in _members(registry[0], manifest["layers"][2]) if member.isfile()]
    assert only_weights == "models/model.safetensors"
    (tmp_path / "pvc").mkdir()
    pulled = pull_model(place, tmp_path / "pvc")
    assert contents(pulled) == {name: content for name, content in contents(model).items() if name[0] != "."}
    assert place == f"{uri}@{inspected(uri)['Digest']}"
    assert [path.name for path in model.parent.iterdir()] == ["tiny"]


def _members(registry: Registry, layer: dict) -> list[tarfile.TarInfo]:
    with tarfile.open(registry.stored(layer["digest"])) as archive:
        return archive.getmembers()


def test_the_same_model_makes_the_same_image_and_weights_that_are_there_are_not_sent(
    model: Path, uri: str, monkeypatch: pytest.MonkeyPatch
):
    first = push_model(model, uri, "URI")
    real = oci_registry.Registry.push

    def push_without_the_weights(self: oci_registry.Registry, layout: Path) -> None:
        max((layout / "blobs" / "sha256").iterdir(), key=lambda blob: blob.stat().st_size).unlink()
        real(self, layout)

    monkeypatch.setattr(oci_registry.Registry, "push", push_without_the_weights)
    assert push_model(model, uri, "URI") == first

    (model / "generation_config.json").write_text("{}")
    second = push_model(model, uri, "URI")

    assert second != first
    assert inspected(second, "--raw")["layers"][2] == inspected(first, "--raw")["layers"][2]


def test_a_registry_with_a_password_takes_the_pull_secret_and_nobody_sees_a_password(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    with Registry(tmp_path / "locked", auth=True) as locked:
        layout = Layout(tmp_path / "layout")
        base = locked.push(layout, layout.image([layout.tar({"bin": link("bin", "usr/bin")})]), "base")
        monkeypatch.setenv(BASE_VARIABLE, base.removeprefix("oci://"))
        uri = f"oci://{locked.host}/models/tiny:1"
        said = []
        for config, state in {
            None: "it is not set",
            docker_config(locked.host, "hunter22"): "was not accepted",
        }.items():
            if config:
                monkeypatch.setenv(SECRET_VARIABLE, config)
            message = error_of(push_model, model, uri, "URI")
            assert message.startswith(f"{BASE_VARIABLE}={base}: the registry {locked.host} denied access")
            assert state in message
            said.append(message)
        monkeypatch.setenv(SECRET_VARIABLE, docker_config(locked.host))

        place = push_model(model, uri, "URI")

        (tmp_path / "pvc").mkdir()
        assert "model.safetensors" in contents(pull_model(place, tmp_path / "pvc"))
        captured = capfd.readouterr()
        said += [place, captured.out, captured.err]
        for password in (PASSWORD, "hunter22"):
            encoded = json.loads(docker_config(locked.host, password))["auths"][locked.host]["auth"]
            assert not [text for text in said if password in text or encoded in text]


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("oci://quay.io/Org/model", "the repository in lower case"),
        (f"oci://quay.io/org/model@sha256:{'0a' * 32}", "a model is pushed to a tag, not to a digest"),
        ("oci://quay.io", "is not allowed; allowed: s3://bucket/prefix"),
        ("docker://quay.io/org/model", "is not allowed; allowed: s3://bucket/prefix"),
        ("oci://user:hunter22@quay.io/org/model", "oci://***@quay.io/org/model"),
    ],
)
def test_where_nothing_can_be_pushed_is_known_before_the_training(uri: str, problem: str):
    message = error_of(check_destination, "export_uri", uri)

    assert message.startswith("export_uri=") and problem in message and "hunter22" not in message


def test_a_base_image_that_is_missing_is_known_before_the_training(
    registry: tuple[Registry, str], uri: str, monkeypatch: pytest.MonkeyPatch
):
    missing = f"{registry[0].host}/base/none:1"
    monkeypatch.setenv(BASE_VARIABLE, missing)

    assert error_of(check_destination, "export_uri", uri).startswith(f"{BASE_VARIABLE}=oci://{missing}: no such")


@pytest.mark.usefixtures("base_image")
def test_credentials_without_the_registry_are_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setenv(SECRET_VARIABLE, docker_config("other.example"))

    check_destination("export_uri", "oci://quay.io/org/model:1")

    assert f"{SECRET_VARIABLE}: it has no entry for this registry" in capsys.readouterr().out
