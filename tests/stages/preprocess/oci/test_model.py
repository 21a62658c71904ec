"""What of an image or artifact is the model, and when a pulled model is used again."""

import base64
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TINY_TRAINING
from fakes.registry import (
    ARTIFACT_CONFIG,
    MANIFEST,
    PASSWORD,
    TAR,
    TITLE,
    USER,
    Gate,
    Layout,
    Registry,
    docker_config,
    link,
)
from helpers.errors import error_of
from helpers.files import contents
from helpers.oci_models import MODEL, OTHER, below, is_clean, needs_registry, start_pull
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE
from kfp_osft.shared.oci.registry import parse_reference
from kfp_osft.stages import preprocess
from kfp_osft.stages.preprocess.base_model import BaseModel, check_base_model
from kfp_osft.stages.preprocess.oci.model import pull_model, pulled_digest
from pytest_kfp_local import KfpLocal


@needs_registry
@pytest.mark.parametrize(
    ("folder", "compression"),
    [
        ("models", ""),
        ("models", "gzip"),
        ("models", "zstd"),
        ("models/granite", "gzip"),
        ("./models", "gzip"),
        ("opt/model", "gzip"),
    ],
)
def test_of_an_image_only_the_model_is_kept(
    push: Callable, layout: Layout, workspace: Path, folder: str, compression: str
):
    system = {
        "etc/passwd": b"root",
        "usr/lib/other/config.json": b"{}",
        "bin": link("bin", "/usr/bin"),
        "dev/null": link("dev/null", "", tarfile.CHRTYPE),
        "etc/mtab": link("etc/mtab", "/proc/mounts"),
        "usr/bin/[": link("usr/bin/[", "usr/bin/busybox", tarfile.LNKTYPE),
    }
    more = {
        "original/consolidated.00.pth": b"x" * 999,
        "model.gguf": b"GGUF",
        "additional_chat_templates/tools.jinja": b"{{ messages }}",
    }
    reference = push(
        layout.tar(system, "gzip"), layout.tar(below(folder, MODEL | more), compression), layout.tar({}, compression)
    )

    model = pull_model(reference, workspace)

    assert contents(model) == MODEL | {"additional_chat_templates/tools.jinja": b"{{ messages }}"}
    assert model.is_relative_to(workspace) and is_clean(workspace)
    assert model.name == parse_reference(reference, "uri").name


@needs_registry
def test_the_model_of_an_artifact_is_pulled_from_files(push: Callable, layout: Layout, workspace: Path):
    layers = [
        layout.file(name, content, "application/octet-stream" if name.startswith("model") else TAR)
        for name, content in MODEL.items()
    ]
    layers.append(
        layout.blob(
            b"{{ messages }}",
            "application/vnd.cncf.model.weight.config.v1.raw",
            annotations={"org.cncf.model.filepath": "chat_template.jinja"},
        )
    )
    # The same content under two names is one blob.
    layers += [layout.file(name, b"same") for name in ("merges.txt", "vocab.json")]

    model = pull_model(push(*layers, config=ARTIFACT_CONFIG), workspace)

    assert contents(model) == MODEL | {
        "chat_template.jinja": b"{{ messages }}",
        "merges.txt": b"same",
        "vocab.json": b"same",
    }


@needs_registry
@pytest.mark.parametrize(
    ("prefix", "annotations", "compression"),
    [
        ("model/", {TITLE: "model", "io.deis.oras.content.unpack": "true"}, "gzip"),
        ("model/", {TITLE: "model.tar"}, ""),
        ("./", {TITLE: "model.tar.zst"}, "zstd"),
        ("", None, "gzip"),
        ("./", None, ""),
    ],
)
def test_the_model_of_an_artifact_is_pulled_from_a_tar_of_its_folder(
    push: Callable, layout: Layout, workspace: Path, prefix: str, annotations: dict | None, compression: str
):
    files = {prefix + name: content for name, content in MODEL.items()}
    fields = {"annotations": annotations} if annotations else {}

    model = pull_model(push(layout.tar(files, compression, **fields), config=ARTIFACT_CONFIG), workspace)

    assert contents(model) == MODEL


@needs_registry
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"models/model.gguf": b"GGUF", "models/README.md": b""},
            "contains no model: no folder in it has config.json and weights in safetensors or .bin; "
            "it contains /models/README.md, /models/model.gguf",
        ),
        (
            {f"etc/{number:02}": b"" for number in range(12)},
            "contains no model: no folder in it has config.json and weights in safetensors or .bin; "
            "it contains /etc/00, /etc/01, /etc/02, /etc/03, /etc/04, /etc/05, /etc/06, /etc/07, /etc/08, /etc/09 and "
            "2 more",
        ),
        (
            {},
            "contains no model: no folder in it has config.json and weights in safetensors or .bin; "
            "it contains no files",
        ),
        (
            {**below("models/a"), **below("models/b"), **below("models/b/c")},
            "contains 2 models: /models/a, /models/b; give an image with exactly one",
        ),
    ],
)
def test_an_image_without_exactly_one_model_is_rejected(
    push: Callable, layout: Layout, workspace: Path, files: dict, message: str
):
    reference = push(layout.tar(files))

    assert error_of(pull_model, reference, workspace) == f"training_base_model={reference}: {message}"
    assert is_clean(workspace)


@needs_registry
def test_a_model_that_does_not_fit_is_reported_before_it_is_pulled(
    registry: Registry, layout: Layout, push: Callable, workspace: Path
):
    layer = layout.tar(below("models"), "gzip")
    repository = parse_reference(push(layer, config=ARTIFACT_CONFIG), "uri").repository
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.blob(b"{}", ARTIFACT_CONFIG),
        "layers": [{**layer, "size": 8 * 10**15}],
    }
    reference = registry.put_manifest(manifest, repository, "huge")

    message = error_of(pull_model, reference, workspace)

    free = shutil.disk_usage(workspace).free / 1e9
    told = re.fullmatch(
        re.escape(
            f"training_base_model={reference}: pulling and unpacking it needs 24000000.00 GB in the workspace "
            "(1.5 times the compressed layers, the other layers once, and the largest layer again); "
        )
        + r"(\d+\.\d\d) GB are free",
        message,
    )
    assert float(told[1]) == pytest.approx(free, rel=0.1)
    assert is_clean(workspace)


@needs_registry
def test_a_pulled_model_is_used_again_and_a_moved_tag_is_pulled(
    push: Callable, layout: Layout, workspace: Path, capsys: pytest.CaptureFixture
):
    first_layer = layout.tar(below("models"))
    reference = push(first_layer)
    first = pull_model(reference, workspace)
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert pull_model(reference, workspace) == first
    assert f"{reference} is already in {first}" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == before

    push(layout.tar(below("models", OTHER)))
    second = pull_model(reference, workspace)

    assert contents(second) == OTHER
    # A training may be reading it.
    assert contents(first) == MODEL


@needs_registry
def test_a_model_pulled_by_digest_needs_no_registry(tmp_path: Path, layout: Layout, workspace: Path):
    image = layout.image([layout.tar(below("models"))])
    with Registry(tmp_path / "registry") as own:
        reference = own.push(layout, image, "org/model").removesuffix(":1") + f"@{image['digest']}"
        model = pull_model(reference, workspace)

    assert pull_model(reference, workspace) == model
    assert pulled_digest(model) == image["digest"]


@needs_registry
@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: os.truncate(file, 100),
        lambda file: file.with_name("more.json").write_text("{}"),
    ],
)
def test_a_modified_model_is_pulled_again(push: Callable, layout: Layout, workspace: Path, damage: Callable):
    reference = push(layout.tar(below("models")))
    model = pull_model(reference, workspace)
    damage(model / "model.safetensors")

    assert pulled_digest(model) is None
    assert contents(pull_model(reference, workspace)) == MODEL


@needs_registry
def test_two_runs_in_one_workspace_pull_a_model_once(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, capfd: pytest.CaptureFixture
):
    layers = [layout.tar(below("models")), layout.tar({"models/generation_config.json": b"{}" * 30_000})]
    with Gate(registry) as gate:
        gate.bytes_per_second = 200_000
        reference = gate.through(push(*layers))
        runs = [start_pull(reference, workspace) for _ in range(2)]
        assert [run.wait() for run in runs] == [0, 0]

    assert {gate.asked[layer["digest"]] for layer in layers} == {1}
    output = capfd.readouterr().out
    assert output.count(": waiting for it") == 1 and output.count("is already in") == 1


@needs_registry
def test_a_pulled_model_is_known_by_its_digest(push: Callable, layout: Layout, workspace: Path, tiny_model: Path):
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}

    model = pull_model(push(layout.tar(below("models", files), "gzip")), workspace)

    digest = check_base_model(BaseModel("oci://host/model:1", model))["oci"]
    assert model.parent.name == digest.removeprefix("sha256:")[:12]
    assert contents(model) == files


@needs_registry
@pytest.mark.slow
def test_preprocess_pulls_the_base_model_and_shows_its_reference(
    locked_registry: tuple[Registry, str],
    layout: Layout,
    tmp_path: Path,
    tiny_model: Path,
    chat_rows: Path,
    kfp_local: KfpLocal,
    monkeypatch: pytest.MonkeyPatch,
):
    registry, _ = locked_registry
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    reference = registry.push(layout, layout.image([layout.tar(below("models/tiny", files), "gzip")]), "org/tiny")
    monkeypatch.setenv(SECRET_VARIABLE, docker_config(registry.host))
    pvc = tmp_path / "pvc"
    arguments = {"dataset_path": str(chat_rows), "pvc_path": str(pvc), **TINY_TRAINING}

    outputs = kfp_local.run(preprocess, training_base_model=reference, **arguments).outputs
    local = kfp_local.run(preprocess, training_base_model=str(tiny_model), **arguments).outputs

    config = json.loads(outputs["training_config"])
    model = Path(config["osft"]["model_path"])
    assert model.is_relative_to(pvc) and contents(model) == files
    assert config["about"]["base_model"] == reference
    assert Path(outputs["data_path"]).read_bytes() == Path(local["data_path"]).read_bytes()
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert PASSWORD.encode() not in written
    assert base64.b64encode(f"{USER}:{PASSWORD}".encode()) not in written
