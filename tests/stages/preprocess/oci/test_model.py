import base64
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from conftest import TINY_TRAINING
from fakes.registry import (
    ARTIFACT_CONFIG,
    INDEX,
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
    missing_programs,
)
from kfp_osft.shared.reporting import progress
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages import preprocess
from kfp_osft.stages.preprocess.base_model import BaseModel, check_base_model
from kfp_osft.stages.preprocess.oci import registry as oci_registry
from kfp_osft.stages.preprocess.oci.model import pull_model, pulled_digest
from kfp_osft.stages.preprocess.oci.registry import SECRET_VARIABLE, docker_auths, parse_reference
from pytest_kfp_local import KfpLocal

needs_registry = pytest.mark.skipif(
    bool(missing_programs()),
    reason=(f"{' and '.join(missing_programs())} not installed: apt-get install docker-registry skopeo"),
)


def weights(size: int, seed: int = 0) -> bytes:
    """A safetensors file with one tensor of random bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


MODEL = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": b"{}" * 500,
    "model.safetensors": weights(200_000),
}


def below(folder: str, files: dict[str, bytes] = MODEL) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def error_of(function: Callable, *arguments: object) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


def is_clean(workspace: Path) -> bool:
    """Nothing is left of the pull but models, their manifests and locks."""
    return not [
        path
        for path in workspace.glob("base_models/*/*")
        if path.name in ("layers", "unpacked") or path.name.endswith(".unfinished")
    ]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def locked_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, str]]:
    """A registry that wants a password, and a model in it."""
    folder = tmp_path_factory.mktemp("locked")
    layout = Layout(folder / "layout")
    with Registry(folder / "registry", auth=True) as running:
        yield running, running.push(layout, layout.image([layout.tar(below("models"))]), "org/private")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def push(registry: Registry, layout: Layout, tmp_path: Path) -> Callable[..., str]:
    """Pushes layers as one image to a repository of the test's own."""

    def push_layers(*layers: dict, tag: str = "1", **options: str) -> str:
        return registry.push(layout, layout.image(layers, **options), f"tests/{tmp_path.name.replace('_', '-')}", tag)

    return push_layers


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    # Nobody's own logins, and no pauses.
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "no-logins.json"))
    (tmp_path / "no-logins.json").write_text("{}")
    monkeypatch.setattr(oci_registry, "_FIRST_PAUSE", 0.01)
    folder = tmp_path / "pvc"
    folder.mkdir()
    return folder


# Layouts


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
def test_the_model_of_an_image_is_pulled_alone(
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
    assert model.name == parse_reference(reference).name


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


OTHER = MODEL | {"config.json": b'{"model_type": "llama"}'}


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
def test_of_an_index_the_image_for_amd64_or_the_only_one_is_taken(
    registry: Registry, layout: Layout, workspace: Path, platforms: list[dict], expected: int | None
):
    images = [
        layout.image([layout.tar(below("models", files))], platform=platform)
        for files, platform in zip((MODEL, OTHER), platforms, strict=False)
    ]
    reference = registry.push(layout, layout.index(images), "tests/index")

    if expected is None:
        assert error_of(pull_model, reference, workspace) == (
            f"training_base_model={reference}: is an index without an image for linux/amd64; "
            "it has linux/arm64, linux/s390x"
        )
    else:
        assert contents(pull_model(reference, workspace)) == (MODEL, OTHER)[expected]


@needs_registry
def test_a_later_layer_replaces_and_hides_what_earlier_ones_hold(push: Callable, layout: Layout, workspace: Path):
    lower = below("models", MODEL | {"gone.txt": b"gone", "kept.txt": b"kept"}) | {
        "models/additional_chat_templates/lower.jinja": b"lower",
        "models/generation_config.json/x": b"a folder",
    }
    upper = {
        # A whiteout hides lower layers, not its own, wherever it stands.
        "models/additional_chat_templates/upper.jinja": b"upper",
        "models/additional_chat_templates/.wh..wh..opq": b"",
        "models/.wh.gone.txt": b"",
        "models/.wh.never-there": b"",
        "models/config.json": OTHER["config.json"],
        "models/generation_config.json": b"a file",
    }

    model = pull_model(push(layout.tar(lower), layout.tar(upper)), workspace)

    assert contents(model) == OTHER | {
        "kept.txt": b"kept",
        "additional_chat_templates/upper.jinja": b"upper",
        "generation_config.json": b"a file",
    }


@needs_registry
def test_links_inside_become_files(push: Callable, layout: Layout, workspace: Path):
    """As in the Hugging Face cache, whose snapshots are links to blobs."""
    files: dict[str, bytes | tarfile.TarInfo] = {
        f"models/blobs/{number}": content for number, content in enumerate(MODEL.values())
    }
    for number, name in enumerate(MODEL):
        files[name] = link(f"models/snapshots/main/{name}", f"../../blobs/{number}")
    files["again"] = link("models/snapshots/main/again.json", "../../blobs/1")
    files["hard"] = link("models/snapshots/main/hard.json", "models/blobs/1", tarfile.LNKTYPE)

    model = pull_model(push(layout.tar(files)), workspace)

    assert contents(model) == MODEL | {"again.json": MODEL["tokenizer.json"], "hard.json": MODEL["tokenizer.json"]}
    assert not [file for file in model.iterdir() if file.is_symlink()]


# What is refused


@needs_registry
@pytest.mark.parametrize(
    "members",
    [
        {"models/../../evil": b"x"},
        {"../evil": b"x"},
        {"/evil": b"x"},
        {"models/.wh...": b""},
        [link("models/evil", "/etc/passwd")],
        [link("models/evil", "../../../outside")],
        [link("models/evil", "../outside", tarfile.LNKTYPE)],
        [link("models/evil", "/etc/passwd", tarfile.LNKTYPE)],
        [link("models/evil", "models/none", tarfile.LNKTYPE)],
        [link("models/evil", "", tarfile.CHRTYPE)],
        [link("models/evil", "", tarfile.FIFOTYPE)],
        # The first link is made while nothing of its way is there; the second leads it outside.
        [link("models/a", "d/../../../outside"), link("models/d", ".")],
        [
            link("models/evil", "d/../../outside"),
            link("models/d", "."),
            link("models/evil/.wh.kept", "", tarfile.REGTYPE),
        ],
    ],
    ids=lambda members: " ".join(getattr(member, "name", member) for member in members),
)
def test_a_member_that_points_outside_is_refused_by_name(
    push: Callable, layout: Layout, workspace: Path, members: dict | list
):
    files = members if isinstance(members, dict) else {str(number): member for number, member in enumerate(members)}
    names = [member.name for member in members] if isinstance(members, list) else list(members)
    outside = workspace.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    reference = push(layout.tar(below("models")), layout.tar(files))

    message = error_of(pull_model, reference, workspace)

    assert message.startswith(f"training_base_model={reference}: layer 2 of 2: ")
    assert any(name in message for name in names)
    assert not list(workspace.rglob("evil*")) and not Path("/evil").exists()
    assert (outside / "kept").read_text() == "kept" and is_clean(workspace)
    assert not list(workspace.glob("base_models/*/tests*"))


@needs_registry
@pytest.mark.parametrize(
    ("links", "message"),
    [
        # As long as there is no x, x/../.. is models, and all is inside; with x, it is base_models.
        (
            {"models/a/link": "x/../..", "models/a/x": "../.."},
            "layer 2 of 3: models/a/link is refused: it is a link to x/../.., which may point outside",
        ),
        (
            {"models/a/x": "../..", "models/a/link": "x/evil"},
            "layer 2 of 3: models/a/link is refused: it is a link to x/evil, which leads through the link x",
        ),
        (
            {"models/a/link": "../../.."},
            "layer 2 of 3: models/a/link is refused: it is a link to ../../.., which may point outside",
        ),
        # Inside, and nothing is written through it all the same.
        (
            {"models/a/link": "../more"},
            "layer 3 of 3: models/a/link/evil is refused: it leads through the link link",
        ),
    ],
)
def test_a_link_that_others_could_lead_outside_is_refused_and_nothing_is_written_through_one(
    push: Callable, layout: Layout, workspace: Path, links: dict[str, str], message: str
):
    reference = push(
        layout.tar(below("models/a")),
        layout.tar({str(number): link(name, links[name]) for number, name in enumerate(links)}),
        layout.tar({"models/a/link/evil": b"x"}),
    )

    assert error_of(pull_model, reference, workspace) == f"training_base_model={reference}: {message}"
    assert not list(workspace.rglob("evil"))


@needs_registry
def test_a_path_longer_than_the_kernel_takes_leads_nowhere(push: Callable, layout: Layout, workspace: Path):
    """16 folders with names of 247 characters and a short link to each: there realpath gives up (CVE-2025-4517)."""
    long_name, steps = "d" * 247, "abcdefghijklmnop"
    members, folder = {}, "models"
    for step in steps:
        directory = tarfile.TarInfo(f"{folder}/{long_name}")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        members |= {f"{step} folder": directory, step: link(f"{folder}/{step}", long_name)}
        folder = f"{folder}/{long_name}"
    deep = "models/" + "/".join(steps) + "/" + "l" * 254
    members["deep"] = link(deep, "../" * len(steps))
    outside = "/".join([deep.removeprefix("models/"), *[".."] * 3, "outside"])
    members["escape"] = link("models/escape", outside)
    members["hard"] = link("models/hard", "models/escape", tarfile.LNKTYPE)
    hard = tarfile.TarInfo("models/hard")
    members["write"] = hard
    (workspace / "outside").write_text("kept")
    reference = push(layout.tar(members), layout.tar(below("models")))

    message = error_of(pull_model, reference, workspace)

    assert f"{deep} is refused: it leads through the link a" in message
    assert (workspace / "outside").read_text() == "kept" and is_clean(workspace)


@needs_registry
@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\0b"], ids=repr)
def test_a_file_that_names_itself_outside_is_refused(push: Callable, layout: Layout, workspace: Path, name: str):
    reference = push(layout.file(name, b"x"), config=ARTIFACT_CONFIG)

    assert error_of(pull_model, reference, workspace) == (
        f"training_base_model={reference}: layer 1 of 1: {name} is refused: it points outside"
    )


@needs_registry
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"models/model.gguf": b"GGUF", "models/README.md": b""},
            "holds no model: no folder in it has config.json and weights in safetensors or .bin; "
            "it has /models/README.md, /models/model.gguf",
        ),
        (
            {f"etc/{number:02}": b"" for number in range(12)},
            "holds no model: no folder in it has config.json and weights in safetensors or .bin; "
            "it has /etc/00, /etc/01, /etc/02, /etc/03, /etc/04, /etc/05, /etc/06, /etc/07, /etc/08, /etc/09 and "
            "2 more",
        ),
        ({}, "holds no model: no folder in it has config.json and weights in safetensors or .bin; it has no file"),
        (
            {**below("models/a"), **below("models/b"), **below("models/b/c")},
            "holds 2 models: /models/a, /models/b; an image with one is needed",
        ),
    ],
)
def test_what_is_not_one_model_is_told(push: Callable, layout: Layout, workspace: Path, files: dict, message: str):
    reference = push(layout.tar(files))

    assert error_of(pull_model, reference, workspace) == f"training_base_model={reference}: {message}"
    assert is_clean(workspace)


@needs_registry
def test_a_layer_that_is_neither_a_tar_nor_a_named_file_is_told(push: Callable, layout: Layout, workspace: Path):
    reference = push(layout.blob(b"something", "application/x-something"), config=ARTIFACT_CONFIG)

    assert error_of(pull_model, reference, workspace) == (
        f"training_base_model={reference}: layer 1 of 1 is neither a tar nor a file with a name "
        "(application/x-something)"
    )


@needs_registry
def test_a_model_that_does_not_fit_is_told_before_it_is_pulled(
    registry: Registry, layout: Layout, push: Callable, workspace: Path
):
    layer = layout.tar(below("models"), "gzip")
    repository = parse_reference(push(layer, config=ARTIFACT_CONFIG)).repository
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
            "(1.5 times its compressed layers, once its others, and the largest one again); "
        )
        + r"(\d+\.\d\d) GB are free",
        message,
    )
    assert float(told[1]) == pytest.approx(free, rel=0.1)
    assert is_clean(workspace)


@needs_registry
def test_a_blob_that_is_not_what_its_digest_says_is_told(
    registry: Registry, push: Callable, layout: Layout, workspace: Path
):
    layer = layout.tar(below("models", MODEL | {"model.safetensors": weights(3000, seed=7)}))
    reference = push(layer)
    stored = registry.stored(layer["digest"])
    content = bytearray(stored.read_bytes())
    content[2000] ^= 1
    stored.write_bytes(content)

    message = error_of(pull_model, reference, workspace)

    assert message.startswith(
        f"training_base_model={reference}: what the registry gave has another digest than its manifest says (skopeo: "
    )
    assert not list(workspace.rglob("config.json"))


# Again


@needs_registry
def test_a_model_that_is_there_is_used_again_and_a_moved_tag_is_pulled(
    push: Callable, layout: Layout, workspace: Path, capsys: pytest.CaptureFixture
):
    first_layer = layout.tar(below("models"))
    reference = push(first_layer)
    first = pull_model(reference, workspace)
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert pull_model(reference, workspace) == first
    assert f"{reference} is in {first} already: used again" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == before

    push(layout.tar(below("models", OTHER)))
    second = pull_model(reference, workspace)

    assert contents(second) == OTHER
    # A training may be reading it.
    assert contents(first) == MODEL


@needs_registry
def test_a_model_by_digest_that_is_there_needs_no_registry(tmp_path: Path, layout: Layout, workspace: Path):
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
def test_a_model_that_was_changed_is_pulled_again(push: Callable, layout: Layout, workspace: Path, damage: Callable):
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
    assert output.count("Another run is pulling into") == 1 and output.count("used again") == 1


# Credentials


AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
WRONG = base64.b64encode(f"{USER}:wrong-horse-battery".encode()).decode()


@needs_registry
@pytest.mark.parametrize(
    "auths",
    [
        {"{host}": {"auth": AUTH}},
        {"http://{host}": {"auth": AUTH}},
        {"https://{host}/v1/": {"auth": AUTH, "email": "a@b"}},
        {"https://{host}/v2/": {"auth": AUTH}},
        {"{host}": {"username": USER, "password": PASSWORD}},
        {"{host}": {"username": USER, "password": PASSWORD, "auth": ""}},
        {"{host}/org": {"auth": AUTH}, "{host}": {"auth": WRONG}},
        {"{host}/org/private": {"auth": AUTH}, "{host}/org": {"auth": WRONG}},
        {"{host}": {"auth": AUTH}, "{host}/other": {"auth": WRONG}, "quay.io": {"auth": WRONG}, "ghcr.io": {}},
    ],
    ids=lambda auths: " ".join(auths),
)
def test_each_way_to_write_credentials_opens_a_registry(
    locked_registry: tuple[Registry, str], workspace: Path, monkeypatch: pytest.MonkeyPatch, auths: dict
):
    registry, reference = locked_registry
    monkeypatch.setenv(SECRET_VARIABLE, json.dumps({"auths": auths}).replace("{host}", registry.host))

    assert contents(pull_model(reference, workspace)) == MODEL


@needs_registry
@pytest.mark.parametrize(
    ("config", "state"),
    [
        (None, "it is not set"),
        ("  \n", "it is not set"),
        ('{"auths": {}}', "it has no entry for that registry in 'auths'"),
        (f'{{"auths": {{"quay.io": {{"auth": "{AUTH}"}}}}}}', "it has no entry for that registry in 'auths'"),
        (f'{{"auths": {{"{{host}}": {{"auth": "{WRONG}"}}}}}}', "its entry for it does not open it"),
        (f'{{"auths": {{"{{host}}/other": {{"auth": "{AUTH}"}}}}}}', "its entry for it does not open it"),
    ],
)
def test_a_refused_pull_names_the_secret_and_says_what_it_has(
    locked_registry: tuple[Registry, str],
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str | None,
    state: str,
):
    registry, reference = locked_registry
    if config is not None:
        monkeypatch.setenv(SECRET_VARIABLE, config.replace("{host}", registry.host))

    message = error_of(pull_model, reference, workspace)

    assert message.startswith(
        f"training_base_model={reference}: the registry {registry.host} refuses access. It needs credentials in "
        "OCI_PULL_SECRET_MODEL_DOWNLOAD (of the Secret oci-pull-secret-model-download, the content of a Docker "
        f"config.json): {state}. Some registries answer so, too, where there is no such repository (skopeo: "
    )


@needs_registry
@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_credentials_are_in_no_argument_variable_line_or_file(
    locked_registry: tuple[Registry, str],
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    in_memory: bool,
    is_right: bool,
):
    registry, reference = locked_registry
    password = PASSWORD if is_right else "wrong-horse-battery"
    config = docker_config(registry.host, password)
    monkeypatch.setenv(SECRET_VARIABLE, config)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    # A skopeo that tells what it was started with, and how the file of the credentials can be read.
    seen = tmp_path / "seen"
    seen.mkdir()
    wrapper = tmp_path / "bin" / "skopeo"
    wrapper.parent.mkdir()
    wrapper.write_text(f"""#!/bin/sh
        echo "$@" >> {seen}/arguments; env >> {seen}/environment; find {temporary} -printf '%m %y\\n' >> {seen}/modes
        exec {shutil.which("skopeo")} "$@"
    """)
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")

    message = ""
    if is_right:
        pull_model(reference, workspace)
    else:
        message = error_of(pull_model, reference, workspace)

    output = capfd.readouterr()
    everywhere = [message, output.out, output.err] + [
        file.read_text(errors="replace")
        for folder in (seen, workspace, temporary)
        for file in folder.rglob("*")
        if file.is_file()
    ]
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    assert not [text for text in everywhere if password in text or auth in text]
    assert (
        "--authfile=" in (seen / "arguments").read_text() and SECRET_VARIABLE not in (seen / "environment").read_text()
    )
    assert list(temporary.iterdir()) == []
    modes = set((seen / "modes").read_text().split("\n")) - {"755 d", ""}
    assert modes == (set() if in_memory else {"700 d", "600 f"})


@needs_registry
def test_an_identity_token_opens_a_registry(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    with Gate(registry) as gate:
        gate.refresh_token = "an-identity-token"
        reference = gate.through(push(layout.tar(below("models"))))
        monkeypatch.setenv(SECRET_VARIABLE, docker_config(gate.host, identitytoken="another-token"))
        message = error_of(pull_model, reference, workspace)
        assert f"the registry {gate.host} refuses access" in message and "another-token" not in message

        monkeypatch.setenv(SECRET_VARIABLE, docker_config(gate.host, identitytoken="an-identity-token"))
        assert contents(pull_model(reference, workspace)) == MODEL


@needs_registry
def test_without_the_secret_the_users_own_login_counts(locked_registry: tuple[Registry, str], workspace: Path):
    registry, reference = locked_registry
    Path(os.environ["REGISTRY_AUTH_FILE"]).write_text(docker_config(registry.host))

    assert contents(pull_model(reference, workspace)) == MODEL


NOT_A_CONFIG = (
    "OCI_PULL_SECRET_MODEL_DOWNLOAD (of the Secret oci-pull-secret-model-download) is not the content of a "
    "Docker config.json: "
)
HELPERS = (
    "it leaves the credentials to a helper program (credsStore, credHelpers), which a stage does not have; "
    "give them in 'auths'"
)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("hunter2", "it is not JSON"),
        ('{"auths": {"quay.io": {"auth": "hunter2"}', "it is not JSON"),
        ('["hunter2"]', "it is not an object with an object 'auths'"),
        ('"hunter2"', "it is not an object with an object 'auths'"),
        ('{"auths": ["hunter2"]}', "it is not an object with an object 'auths'"),
        ('{"auths": null}', "it is not an object with an object 'auths'"),
        ("{}", "it has no 'auths'"),
        ('{".dockerconfigjson": "hunter2"}', "it has no 'auths'"),
        ('{"auths": {"quay.io": "hunter2"}}', "entry 1 of 'auths' is not an object"),
        (
            '{"auths": {"ghcr.io": {}, "quay.io": {"auth": "hunter2"}}}',
            "'auth' in entry 2 of 'auths' is not user:password in base64",
        ),
        (
            '{"auths": {"quay.io": {"auth": "aHVudGVyMg=="}}}',
            "'auth' in entry 1 of 'auths' is not user:password in base64",
        ),
        ('{"auths": {"quay.io": {"auth": "//8="}}}', "'auth' in entry 1 of 'auths' is not user:password in base64"),
        ('{"auths": {"quay.io": {"username": "u", "password": 2}}}', "a value in entry 1 of 'auths' is not a text"),
        ('{"credsStore": "desktop"}', HELPERS),
        ('{"auths": {"quay.io": {}}, "credsStore": "desktop"}', HELPERS),
        ('{"auths": {}, "credHelpers": {"quay.io": "ecr-login"}}', HELPERS),
    ],
)
def test_credentials_that_are_none_are_told_without_showing_them(config: str, problem: str):
    assert error_of(docker_auths, config) == NOT_A_CONFIG + problem


def test_malformed_credentials_are_told_before_a_registry_is_asked(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SECRET_VARIABLE, "hunter2")

    assert error_of(pull_model, "oci://no-such-host.invalid/model", workspace) == NOT_A_CONFIG + "it is not JSON"


# References and registries


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
    assert parse_reference(base_model) == parts


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
def test_a_reference_that_is_none_is_told(base_model: str, workspace: Path):
    assert error_of(pull_model, base_model, workspace) == (
        f"training_base_model={base_model} is not allowed; allowed: oci://registry/repository:tag or "
        "oci://registry/repository@sha256:<64 hex digits>, the repository in lower case"
    )


def test_a_password_in_a_reference_is_not_shown():
    message = error_of(parse_reference, "oci://user:hunter2@quay.io/org/model")

    assert message.startswith("training_base_model=oci://***@quay.io/org/model is not allowed")


@needs_registry
@pytest.mark.parametrize("wrong", ["org/none:1", "tests/there:none", f"tests/there@sha256:{'0a' * 32}"])
def test_a_model_that_is_not_there_is_told(registry: Registry, layout: Layout, workspace: Path, wrong: str):
    registry.push(layout, layout.image([layout.tar(below("models"))]), "tests/there")
    reference = f"oci://{registry.host}/{wrong}"

    assert error_of(pull_model, reference, workspace).startswith(
        f"training_base_model={reference}: there is no such repository, tag or digest (skopeo: "
    )


@needs_registry
@pytest.mark.parametrize("host", ["127.0.0.1:9", "no-such-host.invalid"])
def test_a_registry_that_cannot_be_reached_is_tried_again_and_told(
    workspace: Path, capsys: pytest.CaptureFixture, host: str
):
    assert error_of(pull_model, f"oci://{host}/org/model:1", workspace).startswith(
        f"training_base_model=oci://{host}/org/model:1: the registry cannot be reached (skopeo: "
    )
    assert [line.rpartition("; ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "trying again in 0.01 s",
        "trying again in 0.02 s",
        "trying again in 0.04 s",
    ]


def test_a_missing_skopeo_is_told(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(workspace))

    assert error_of(pull_model, "oci://quay.io/org/model:1", workspace) == (
        "training_base_model=oci://quay.io/org/model:1: oci:// models are pulled with skopeo, which is not installed "
        "here; give the stages an image that has it, or install it on your computer (apt, dnf and brew have a "
        "package skopeo)"
    )


@needs_registry
def test_plain_http_is_for_localhost_only(registry: Registry, push: Callable, layout: Layout, workspace: Path):
    """0.0.0.0 leads here too, and is not localhost."""
    reference = push(layout.tar(below("models")))
    elsewhere = reference.replace("127.0.0.1", "0.0.0.0")

    assert error_of(pull_model, elsewhere, workspace).startswith(
        f"training_base_model={elsewhere}: the registry speaks plain HTTP, which is for localhost only (skopeo: "
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
def test_an_index_of_nothing_is_told(registry: Registry, push: Callable, layout: Layout, workspace: Path):
    repository = parse_reference(push(layout.tar({}))).repository
    manifest = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    reference = registry.put_manifest(manifest, repository, "empty")

    assert error_of(pull_model, reference, workspace) == (
        f"training_base_model={reference}: is an index without an image for linux/amd64; it has nothing"
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
def test_a_manifest_that_is_none_is_told(registry: Registry, workspace: Path, manifest: str):
    with Gate(registry) as gate:
        gate.manifest = manifest
        reference = f"oci://{gate.host}/org/model:1"
        assert error_of(pull_model, reference, workspace) == (
            f"training_base_model={reference}: is neither an OCI image or artifact nor an index of such"
        )


@needs_registry
def test_a_manifest_with_another_digest_is_told(registry: Registry, workspace: Path):
    with Gate(registry) as gate:
        gate.manifest = "{}"
        reference = f"oci://{gate.host}/org/model@sha256:{'0a' * 32}"
        assert error_of(pull_model, reference, workspace) == (
            f"training_base_model={reference}: the registry gave a manifest that has another digest"
        )


# Cuts


def start_pull(reference: str, workspace: Path, before: str = "") -> subprocess.Popen:
    """A process that pulls, in a process group of its own."""
    program = (
        f"import sys, pathlib; from kfp_osft.stages.preprocess.oci import model\n{before}\n"
        "model.pull_model(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    return subprocess.Popen([sys.executable, "-c", program, reference, str(workspace)], start_new_session=True)


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@needs_registry
def test_a_cut_connection_is_tried_again_without_the_layers_that_are_there(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, capsys: pytest.CaptureFixture
):
    layers = [layout.tar(below("models")), layout.tar({"models/vocab.json": b"{}" * 40_000})]
    with Gate(registry) as gate:
        # More than the tries, were none to get further.
        gate.cuts = 2
        model = pull_model(gate.through(push(*layers)), workspace)

    assert contents(model) == MODEL | {"vocab.json": b"{}" * 40_000}
    assert "trying again" in capsys.readouterr().out or gate.asked.total() > 3
    assert is_clean(workspace)


@needs_registry
@pytest.mark.parametrize("statuses", [[429], [503, 500, 502]])
def test_a_busy_registry_is_asked_again(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, statuses: list[int]
):
    with Gate(registry) as gate:
        gate.statuses = list(statuses)
        assert contents(pull_model(gate.through(push(layout.tar(below("models")))), workspace)) == MODEL
        assert not gate.statuses


@needs_registry
def test_a_connection_that_is_always_cut_is_told(registry: Registry, push: Callable, layout: Layout, workspace: Path):
    with Gate(registry) as gate:
        gate.cuts = 1000
        reference = gate.through(push(layout.tar(below("models"))))
        message = error_of(pull_model, reference, workspace)

    assert message.startswith(f"training_base_model={reference}: cannot be pulled (skopeo: ")
    assert "EOF" in message
    assert not list(workspace.rglob("config.json"))


@needs_registry
def test_a_connection_that_says_nothing_is_given_up(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(oci_registry, "_SECONDS_WITHOUT_A_BYTE", 1)
    monkeypatch.setattr(oci_registry, "_ATTEMPTS", 2)
    with Gate(registry) as gate:
        gate.hang = True
        reference = gate.through(push(layout.tar(below("models"))))
        assert error_of(pull_model, reference, workspace) == (f"training_base_model={reference}: no byte came for 1 s")


@needs_registry
def test_progress_is_told(
    registry: Registry,
    push: Callable,
    layout: Layout,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 1)
    with Gate(registry) as gate:
        gate.bytes_per_second = 60_000
        pull_model(gate.through(push(layout.tar(below("models")))), workspace)

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Pulled: ")]
    form = re.compile(r"Pulled: [\d.]+ KiB of [\d.]+ KiB, [\d.]+ KiB/s, [\d.]+ s left")
    assert lines and all(map(form.fullmatch, lines))


@needs_registry
def test_a_pull_that_is_killed_while_it_pulls_goes_on_from_the_layers_that_are_there(
    registry: Registry, push: Callable, layout: Layout, workspace: Path
):
    small, large = layout.tar(below("models")), layout.tar({"models/vocab.json": random.Random(1).randbytes(2_000_000)})
    with Gate(registry) as gate:
        gate.bytes_per_second = 100_000
        reference = gate.through(push(small, large))
        process = start_pull(reference, workspace)
        blob = small["digest"].removeprefix("sha256:")
        wait_until(lambda: list(workspace.rglob(blob)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not list(workspace.rglob("config.json"))
        # skopeo goes with it.
        repository = parse_reference(reference).repository
        wait_until(
            lambda: not [
                process
                for process in psutil.process_iter(["cmdline"])
                if repository in " ".join(process.info["cmdline"] or [])
            ]
        )
        gate.bytes_per_second = 0

        model = pull_model(reference, workspace)

    assert contents(model) == MODEL | {"vocab.json": random.Random(1).randbytes(2_000_000)}
    assert (gate.asked[small["digest"]], gate.asked[large["digest"]]) == (1, 2)
    assert is_clean(workspace)


@needs_registry
@pytest.mark.parametrize("point", ["layers.tarfile.TarFile.extract", "model.os.replace", "model.write_manifest"])
def test_a_pull_that_is_killed_while_it_unpacks_leaves_nothing_that_is_trusted(
    push: Callable, layout: Layout, workspace: Path, point: str
):
    reference = push(layout.tar(below("models")), layout.tar({"models/vocab.json": b"{}"}))
    reached = workspace.parent / "reached"
    # The second call never ends; of the manifest there is but one.
    before = f"""
import itertools, time
from kfp_osft.stages.preprocess.oci import layers
calls, original = itertools.count({int("manifest" in point)}), {point}
def stop(*arguments, **options):
    if next(calls):
        open({str(reached)!r}, "w").close()
        time.sleep(600)
    return original(*arguments, **options)
{point} = stop
"""
    process = start_pull(reference, workspace, before)
    wait_until(reached.exists)
    process.kill()
    process.wait()

    model = pull_model(reference, workspace)

    assert contents(model) == MODEL | {"vocab.json": b"{}"}
    assert not [path for path in workspace.rglob("*") if path.name in ("layers", "unpacked")]


# As a base model


@needs_registry
def test_a_pulled_model_is_known_by_its_digest(push: Callable, layout: Layout, workspace: Path, tiny_model: Path):
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}

    model = pull_model(push(layout.tar(below("models", files), "gzip")), workspace)

    digest = check_base_model(BaseModel("oci://host/model:1", model))["oci"]
    assert model.parent.name == digest.removeprefix("sha256:")[:12]
    assert contents(model) == files


@needs_registry
@pytest.mark.slow
def test_preprocess_pulls_the_base_model_and_people_see_its_reference(
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
    assert PASSWORD.encode() not in written and AUTH.encode() not in written
