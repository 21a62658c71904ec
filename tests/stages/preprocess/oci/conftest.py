"""Registries with models in them, and a workspace to pull into."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.registry import Layout, Registry
from helpers.oci_models import below
from kfp_osft.shared.oci import registry as oci_registry
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
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
