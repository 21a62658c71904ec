"""References, the registry's answers, TLS, and digests."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.registry import INDEX, Gate, Layout, Registry
from helpers.errors import error_of
from helpers.files import contents
from helpers.oci_models import MODEL, OTHER, below, needs_registry, weights
from kfp_osft.shared.oci.registry import parse_reference
from kfp_osft.stages.preprocess.oci.model import pull_model


@pytest.mark.parametrize(
    ("base_model", "parts"),
    [
        ("oci://quay.io/org/model:1.0", ("quay.io", "org/model", "1.0", None)),
        ("oci://quay.io/model", ("quay.io", "model", "latest", None)),
        ("oci://localhost/model:A_b", ("localhost", "model", "A_b", None)),
        ("oci://Registry.example.com:5000/a/b-c/d.e__f", ("Registry.example.com:5000", "a/b-c/d.e__f", "latest", None)),
        (f"oci://[::1]:5000/model:1@sha256:{'0a' * 32}", ("[::1]:5000", "model", "1", f"sha256:{'0a' * 32}")),
    ],
)
def test_a_reference_is_read(base_model: str, parts: tuple):
    assert parse_reference(base_model, "training_base_model") == parts


@pytest.mark.parametrize(
    "base_model",
    [
        "oci://",
        "oci://quay.io",
        "oci://quay.io/",
        "oci://org/model:1",
        "oci:///org/model",
        "oci://quay.io/Org/model",
        "oci://quay.io/org/model:",
        "oci://quay.io/org/model:a b",
        "oci://quay.io/org/model@sha256:12",
        f"oci://quay.io/org/model@sha512:{'0a' * 64}",
        "oci://https://quay.io/org/model",
        "oci://quay.io/org//model",
        "oci://quay.io/../model",
        "oci://quay.io/org/model:1\n",
        "oci://--authfile=x/org/model",
    ],
)
def test_a_malformed_reference_is_rejected(base_model: str, workspace: Path):
    assert error_of(pull_model, base_model, workspace) == (
        f"training_base_model={base_model} is not allowed; allowed: oci://registry/repository:tag or "
        "oci://registry/repository@sha256:<64 hex digits>, the repository in lower case"
    )


def test_a_password_in_a_reference_is_not_shown():
    message = error_of(parse_reference, "oci://user:hunter2@quay.io/org/model", "training_base_model")

    assert message.startswith("training_base_model=oci://***@quay.io/org/model is not allowed")


@needs_registry
@pytest.mark.parametrize("wrong", ["org/none:1", "tests/there:none", f"tests/there@sha256:{'0a' * 32}"])
def test_a_missing_model_is_reported(registry: Registry, layout: Layout, workspace: Path, wrong: str):
    registry.push(layout, layout.image([layout.tar(below("models"))]), "tests/there")
    reference = f"oci://{registry.host}/{wrong}"

    assert error_of(pull_model, reference, workspace).startswith(
        f"training_base_model={reference}: no such repository, tag or digest (skopeo: "
    )


@needs_registry
@pytest.mark.parametrize("host", ["127.0.0.1:9", "no-such-host.invalid"])
def test_an_unreachable_registry_is_retried_and_reported(workspace: Path, capsys: pytest.CaptureFixture, host: str):
    assert error_of(pull_model, f"oci://{host}/org/model:1", workspace).startswith(
        f"training_base_model=oci://{host}/org/model:1: the registry cannot be reached (skopeo: "
    )
    assert [line.rpartition("; ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "trying again in 0.01 s",
        "trying again in 0.02 s",
        "trying again in 0.04 s",
    ]


def test_a_missing_skopeo_is_reported(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(workspace))

    assert error_of(pull_model, "oci://quay.io/org/model:1", workspace) == (
        "training_base_model=oci://quay.io/org/model:1: oci:// needs skopeo, which is not installed "
        "here; use a stage image that has it, or install the package skopeo on your computer (apt, dnf or "
        "brew)"
    )


@needs_registry
def test_plain_http_is_allowed_for_localhost_only(registry: Registry, push: Callable, layout: Layout, workspace: Path):
    """0.0.0.0 leads here too, and is not localhost."""
    reference = push(layout.tar(below("models")))
    elsewhere = reference.replace("127.0.0.1", "0.0.0.0")

    assert error_of(pull_model, elsewhere, workspace).startswith(
        f"training_base_model={elsewhere}: the registry uses plain HTTP, which is allowed for localhost only (skopeo: "
    )
    assert contents(pull_model(reference.replace("127.0.0.1", "localhost"), workspace)) == MODEL


@needs_registry
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_registrys_certificate_is_verified(
    layout: Layout, tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=tests",
            "-addext",
            "subjectAltName=IP:0.0.0.0",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    with Registry(tmp_path / "registry", certificate=(certificate, key)) as registry:
        reference = registry.push(layout, layout.image([layout.tar(below("models"))]), "org/model")
        reference = reference.replace("127.0.0.1", "0.0.0.0")
        assert error_of(pull_model, reference, workspace).startswith(
            f"training_base_model={reference}: the registry's TLS certificate cannot be verified; set "
            "OSFT_CA_BUNDLE to the PEM file of the authority that signed it (skopeo: "
        )

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert contents(pull_model(reference, workspace)) == MODEL


@needs_registry
@pytest.mark.parametrize(
    ("platforms", "expected"),
    [
        ([{"os": "linux", "architecture": "arm64"}, {"os": "linux", "architecture": "amd64"}], 1),
        ([{"os": "linux", "architecture": "s390x"}], 0),
        ([{}], 0),
        ([{"os": "linux", "architecture": "arm64"}, {"os": "unknown", "architecture": "unknown"}], 0),
        ([{"os": "linux", "architecture": "arm64"}, {"os": "linux", "architecture": "s390x"}], None),
    ],
)
def test_an_index_gives_its_amd64_image_or_its_only_one(
    registry: Registry, layout: Layout, workspace: Path, platforms: list[dict], expected: int | None
):
    images = [
        layout.image([layout.tar(below("models", files))], platform=platform)
        for files, platform in zip((MODEL, OTHER), platforms, strict=False)
    ]
    reference = registry.push(layout, layout.index(images), "tests/index")

    if expected is None:
        assert error_of(pull_model, reference, workspace) == (
            f"training_base_model={reference}: the image index has no image for linux/amd64; "
            "it has linux/arm64, linux/s390x"
        )
    else:
        assert contents(pull_model(reference, workspace)) == (MODEL, OTHER)[expected]


@needs_registry
def test_an_empty_index_is_reported(registry: Registry, push: Callable, layout: Layout, workspace: Path):
    repository = parse_reference(push(layout.tar({})), "uri").repository
    manifest = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    reference = registry.put_manifest(manifest, repository, "empty")

    assert error_of(pull_model, reference, workspace) == (
        f"training_base_model={reference}: the image index has no image for linux/amd64; it has nothing"
    )


@needs_registry
@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "<html>",
        "[]",
        "{}",
        '{"layers": [{}]}',
        '{"layers": 1}',
        '{"manifests": [1]}',
        '{"manifests": [{}]}',
        '{"layers": [{"digest": "sha256:../../x", "size": 1}]}',
        '{"layers": [{"digest": "sha256:%s", "size": "1"}]}' % ("0" * 64),
    ],
)
def test_a_malformed_manifest_is_reported(registry: Registry, workspace: Path, manifest: str):
    with Gate(registry) as gate:
        gate.manifest = manifest
        reference = f"oci://{gate.host}/org/model:1"
        assert error_of(pull_model, reference, workspace) == (
            f"training_base_model={reference}: not an OCI image, artifact or image index"
        )


@needs_registry
def test_a_manifest_with_another_digest_is_reported(registry: Registry, workspace: Path):
    with Gate(registry) as gate:
        gate.manifest = "{}"
        reference = f"oci://{gate.host}/org/model@sha256:{'0a' * 32}"
        assert error_of(pull_model, reference, workspace) == (
            f"training_base_model={reference}: the registry returned a manifest with a different digest"
        )


@needs_registry
def test_a_blob_with_another_digest_is_reported(registry: Registry, push: Callable, layout: Layout, workspace: Path):
    layer = layout.tar(below("models", MODEL | {"model.safetensors": weights(3000, seed=7)}))
    reference = push(layer)
    stored = registry.stored(layer["digest"])
    content = bytearray(stored.read_bytes())
    content[2000] ^= 1
    stored.write_bytes(content)

    message = error_of(pull_model, reference, workspace)

    assert message.startswith(
        f"training_base_model={reference}: the registry returned content whose digest differs from the "
        "manifest's (skopeo: "
    )
    assert not list(workspace.rglob("config.json"))
