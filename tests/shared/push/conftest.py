"""A tiny model to push, and a registry to push it to."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.registry import Layout, Registry, link
from kfp_osft.shared.oci import registry as oci_registry
from kfp_osft.shared.oci.base_image import BASE_VARIABLE
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """As export_model leaves it, in a folder of the test's."""
    folder = tmp_path / "models" / "tiny"
    shutil.copytree(tiny_model, folder)
    (folder / "osft_run.json").write_text("{}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("not the model's")
    return folder


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, str]]:
    """A registry, and a base image in it with what KServe runs in a modelcar."""
    folder = tmp_path_factory.mktemp("registry")
    with Registry(folder / "registry") as running:
        layout = Layout(folder / "layout")
        system = layout.tar({"usr/bin/sh": b"#!", "bin": link("bin", "usr/bin"), "usr/bin/ln": b"#!"}, "gzip")
        base = running.push(layout, layout.image([system]), "base/micro")
        yield running, base.removeprefix("oci://")


@pytest.fixture(autouse=True)
def nobodys_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "no-logins.json"))
    (tmp_path / "no-logins.json").write_text("{}")
    monkeypatch.setattr(oci_registry, "_FIRST_PAUSE", 0.01)


@pytest.fixture
def base_image(registry: tuple[Registry, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(BASE_VARIABLE, registry[1])
    return registry[1]
