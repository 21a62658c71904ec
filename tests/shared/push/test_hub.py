"""A model on the Hugging Face Hub."""

import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from fakes.hub import HubServer
from helpers.errors import error_of
from helpers.files import contents
from kfp_osft.shared.push.destination import check_destination
from kfp_osft.shared.push.push import push_model

URI = "hf://team/tiny"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        # Both are read when the package is imported.
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def of_the_hub(hub: HubServer) -> dict[str, bytes]:
    repository = hub._repositories["models", "team/tiny"]
    return repository.commits[repository.revisions["main"]]


def test_a_model_becomes_one_commit_of_a_private_repository(hub: HubServer, model: Path):
    place = push_model(model, URI, "URI")

    repository = hub._repositories["models", "team/tiny"]
    assert repository.private and len(repository.commits) == 2
    assert of_the_hub(hub) == {name: content for name, content in contents(model).items() if name[0] != "."}
    assert place == f"{URI}@{repository.revisions['main']}"


def test_a_second_push_sends_what_changed_and_removes_other_weights(hub: HubServer, model: Path):
    (model / "model-2.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    first = push_model(model, URI, "URI")
    assert push_model(model, URI, "URI") == first
    hub.requests.clear()
    (model / "model-2.safetensors").unlink()
    (model / "generation_config.json").write_text("{}")

    push_model(model, URI, "URI")

    assert "model-2.safetensors" not in of_the_hub(hub) and of_the_hub(hub)["generation_config.json"] == b"{}"
    assert not [line for line in hub.requests if line.startswith("PUT")]


def test_a_push_that_was_cut_off_leaves_no_model_and_sends_no_weights_twice(hub: HubServer, model: Path):
    hub.broken = re.compile("/commit/")
    message = error_of(push_model, model, URI, "URI")
    assert message.startswith(f"URI={URI}: the Hugging Face Hub refuses it (may the token in HF_TOKEN write there?)")
    assert of_the_hub(hub) == {} and hub.token not in message
    hub.broken = None
    hub.requests.clear()

    push_model(model, URI, "URI")

    assert "config.json" in of_the_hub(hub) and not [line for line in hub.requests if line.startswith("PUT")]


@pytest.mark.parametrize(
    ("token", "problem"),
    [("", "no token of the Hugging Face Hub"), ("hf_wrongwrongwrong", "does not accept the token")],
)
def test_a_token_that_cannot_write_is_known_before_the_training(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, problem: str
):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))

    message = error_of(check_destination, "export_uri", URI)

    assert message.startswith(f"export_uri={URI}: ") and problem in message


def test_a_hub_that_is_away_is_a_warning_before_the_training_and_an_error_after_it(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")

    check_destination("export_uri", URI)
    assert "the Hugging Face Hub cannot be reached now" in capsys.readouterr().out
    assert "the push to the Hugging Face Hub failed: Connection refused" in error_of(push_model, model, URI, "URI")
