"""A model in a real S3 store."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes.s3 import S3Server
from helpers.errors import error_of
from helpers.files import contents
from helpers.oci_models import weights
from kfp_osft.pipelines.cli import main
from kfp_osft.shared.push import s3
from kfp_osft.shared.push.destination import check_destination
from kfp_osft.shared.push.push import push_model
from kfp_osft.stages.preprocess.s3_model import fetch_s3_model

_NUMBERS = itertools.count()
# The least that S3 takes.
PART = 5 << 20


@pytest.fixture
def large(model: Path) -> Path:
    """A file of weights in four parts."""
    file = model / "model-large.safetensors"
    file.write_bytes(weights(3 * PART + 1000))
    return file


@pytest.fixture
def uri() -> str:
    return f"s3://models/push-{next(_NUMBERS)}/tiny"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent, in order: an object's name, or that and the number of a part."""
    lines: list[str] = []
    real = s3.open_store

    def open_store(place: Any) -> Any:
        client = real(place)

        def note(params: dict[str, Any], model: Any, **_: Any) -> None:
            name = str(params.get("Key", "")).rpartition("/")[2]
            if model.name in ("PutObject", "UploadPart"):
                lines.append(f"{name} {params['PartNumber']}" if "PartNumber" in params else name)
            elif model.name == "DeleteObject":
                lines.append(f"- {name}")

        client.meta.events.register("before-parameter-build.s3", note)
        return client

    monkeypatch.setattr(s3, "open_store", open_store)
    return lines


def test_a_model_is_there_with_its_own_files_and_config_json_comes_last(
    store: S3Server, model: Path, uri: str, sent: list[str], tmp_path: Path
):
    assert push_model(model, f"{uri}/", "URI") == uri

    assert sent[0] == "osft_run.json" and sent[-1] == "config.json"
    assert set(sent) == {Path(name).name for name in contents(model) if not name.startswith(".")}
    fetched = fetch_s3_model(uri, tmp_path / "pvc", False)
    assert contents(fetched).keys() <= contents(model).keys()
    assert (fetched / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_the_same_model_is_not_sent_again(
    store: S3Server, model: Path, large: Path, uri: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(s3, "_PART_SIZE", PART)
    push_model(model, uri, "URI")
    sent.clear()

    push_model(model, uri, "URI")

    assert sent == []


def test_a_model_that_replaces_another_leaves_none_of_its_weights(
    store: S3Server, model: Path, uri: str, sent: list[str]
):
    store.put("models", f"{uri.removeprefix('s3://models/')}/deeper/other.safetensors", b"x")
    (model / "model-00002-of-00002.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    push_model(model, uri, "URI")
    (model / "model-00002-of-00002.safetensors").unlink()
    (model / "generation_config.json").write_text("{}")
    sent.clear()

    push_model(model, uri, "URI")

    assert sent == ["- config.json", "generation_config.json", "- model-00002-of-00002.safetensors", "config.json"]


@pytest.mark.slow
def test_a_push_that_was_killed_is_no_model_and_goes_on_with_the_missing_parts(
    store: S3Server,
    model: Path,
    large: Path,
    uri: str,
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    program = f"""
import os, pathlib, signal, sys
from kfp_osft.shared.push import push, s3
s3._PART_SIZE, s3.PARTS_AT_ONCE = {PART}, 1
class Progress(s3.Progress):
    def add(self, size):
        super().add(size)
        if size == {PART} and self._done > 2 * size:
            os.kill(os.getpid(), signal.SIGKILL)
s3.Progress = Progress
push.push_model(pathlib.Path(sys.argv[1]), sys.argv[2], "URI")
"""
    killed = subprocess.run([sys.executable, "-c", program, str(model), uri], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "not a model" in error_of(fetch_s3_model, uri, tmp_path, False)
    monkeypatch.setattr(s3, "_PART_SIZE", PART)

    push_model(model, uri, "URI")

    assert not {"model-large.safetensors 1", "model-large.safetensors 2", "osft_run.json"} & {*sent}
    assert {"model-large.safetensors 3", "model-large.safetensors 4"} < {*sent} and sent[-1] == "config.json"
    fetched = fetch_s3_model(uri, tmp_path, False)
    assert (fetched / large.name).read_bytes() == large.read_bytes()


def test_the_command_pushes_the_last_model_of_an_output_folder_and_prints_the_place(
    store: S3Server, model: Path, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "final_model").symlink_to(model)

    assert main(["push", str(tmp_path), uri]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == uri

    assert main(["push", str(tmp_path), "s3://no-such-bucket/m"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kfp-osft push: URI=s3://no-such-bucket/m: ") and "no bucket" in line


def test_a_model_that_somebody_else_put_there_stays(store: S3Server, model: Path, uri: str):
    store.put("models", f"{uri.removeprefix('s3://models/')}/config.json", b"theirs")

    assert f"URI={uri}: holds a model that kfp-osft did not put there (config.json)" in error_of(
        push_model, model, uri, "URI"
    )


@pytest.mark.parametrize(
    ("environment", "uri", "problem"),
    [
        ({}, "s3://no-such-bucket/m", "has no bucket no-such-bucket"),
        ({}, "s3://models", "is not allowed; allowed: s3://bucket/prefix, hf://org/name or oci://"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "s3://models/m", "AWS_SECRET_ACCESS_KEY is not"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "s3://models/m", "no S3 credentials"),
        ({"limited": ""}, "s3://models/m", "they need s3:PutObject"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_training(
    store: S3Server, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], uri: str, problem: str
):
    for name, value in (store.limited if "limited" in environment else environment).items():
        monkeypatch.setenv(name, value)

    message = error_of(check_destination, "export_uri", uri)

    assert message.startswith(f"export_uri={uri}") and problem in message
    assert not (secret := os.environ["AWS_SECRET_ACCESS_KEY"]) or secret not in message


def test_the_check_leaves_nothing_behind(store: S3Server, uri: str):
    check_destination("export_uri", uri)

    prefix = uri.removeprefix("s3://models/")
    assert "Contents" not in store.client.list_objects_v2(Bucket="models", Prefix=prefix)
    assert not store.client.list_multipart_uploads(Bucket="models", Prefix=prefix).get("Uploads")


def test_what_is_not_a_whole_model_is_not_pushed(store: S3Server, model: Path, uri: str):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "it is truncated" in error_of(push_model, model, uri, "URI")
    file.unlink()
    assert "no config.json or no weights" in error_of(push_model, model, uri, "URI")
