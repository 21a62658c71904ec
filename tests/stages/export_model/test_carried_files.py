import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.hub import HubServer
from kfp_osft.stages.export_model.carried_files import base_model_folder, carried_over


def test_the_tokenizer_the_generation_settings_and_the_licence_are_carried_over_and_no_weights(
    tmp_path: Path, tiny_model: Path
):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for name in (
        "LICENSE",
        "NOTICE.txt",
        "tokenizer.model",
        "vocab.json",
        "README.md",
        "additional_chat_templates/a.jinja",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()

    assert list(carried_over(folder)) == [
        "LICENSE",
        "NOTICE.txt",
        "additional_chat_templates/a.jinja",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    ]


def test_a_folder_that_is_gone_is_none_and_said(tmp_path: Path, capsys):
    assert base_model_folder(str(tmp_path / "gone")) is None
    assert "is not there any more" in capsys.readouterr().out


def test_a_hub_that_cannot_be_reached_is_none_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    assert base_model_folder("org/model") is None
    assert "does not give the small files of org/model" in capsys.readouterr().out


def test_of_a_hub_model_the_cached_files_serve_without_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
):
    import huggingface_hub

    commit = "0" * 40
    snapshot = tmp_path / "models--org--model" / "snapshots" / commit
    shutil.copytree(tiny_model, snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    assert base_model_folder("org/model", commit) == snapshot


def test_of_a_hub_model_the_small_files_alone_are_fetched(tmp_path: Path, tiny_model: Path):
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    program = (
        "import sys; from kfp_osft.stages.export_model.carried_files import base_model_folder\n"
        "print(*sorted(file.name for file in base_model_folder('org/model', sys.argv[1]).iterdir()))"
    )
    with HubServer() as hub:
        commit = hub.commit("org/model", {**files, "README.md": b"card", "LICENSE": b"words"}, kind="models")
        hub.commit("org/model", {"config.json": b"{}"}, kind="models")

        # HF_ENDPOINT is read when huggingface_hub is imported.
        done = subprocess.run(
            [sys.executable, "-c", program, commit],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
        )

    assert done.stdout.split() == [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert not [request for request in hub.requests if "resolve" in request and "safetensors" in request]
