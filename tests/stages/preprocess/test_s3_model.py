"""A base model from S3."""

import os
from pathlib import Path

import pytest

from conftest import TINY_TRAINING
from fakes.http import File, HttpFileServer
from fakes.s3 import S3Server
from helpers.errors import error_of
from helpers.files import contents
from kfp_osft.shared.s3 import fetching
from kfp_osft.stages import preprocess
from kfp_osft.stages.preprocess.base_model import check_base_model, find_base_model
from kfp_osft.stages.preprocess.s3_model import fetch_s3_model
from pytest_kfp_local import KfpLocal

pytestmark = pytest.mark.usefixtures("store")


def put_model(store: S3Server, model: Path, bucket: str, prefix: str) -> dict[str, bytes]:
    files = contents(model)
    for name, content in files.items():
        store.put(bucket, f"{prefix}/{name}", content)
    return files


def test_what_a_training_needs_of_a_model_is_fetched(store: S3Server, tiny_model: Path, tmp_path: Path):
    files = put_model(store, tiny_model, "models", "team/tiny")
    for other in ("model.gguf", "consolidated.safetensors", "code.py", "checkpoint/config.json", "pytorch_model.bin"):
        store.put("models", f"team/tiny/{other}", b"x")
    store.put("models", "team/tiny/additional_chat_templates/tools.jinja", b"{{ messages }}")

    model = find_base_model("s3://models/team/tiny/", tmp_path)

    assert contents(model.folder) == files | {"additional_chat_templates/tools.jinja": b"{{ messages }}"}
    assert model.name == "s3://models/team/tiny/" and model.folder.name == "tiny"
    assert check_base_model(model)["weights"].keys() == {"model.safetensors"}


def test_a_model_is_fetched_once_and_anew_when_it_was_replaced(
    store: S3Server, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    put_model(store, tiny_model, "replaced", "m")
    first = fetch_s3_model("s3://replaced/m", tmp_path, False)
    assert fetch_s3_model("s3://replaced/m", tmp_path, False) == first
    assert "already in the workspace" in capsys.readouterr().out

    store.put("replaced", "m/config.json", b"{}")
    second = fetch_s3_model("s3://replaced/m", tmp_path, False)

    assert second != first and (first / "config.json").read_bytes() == (tiny_model / "config.json").read_bytes()


def test_what_an_interrupted_fetch_brought_is_not_fetched_again(
    store: S3Server, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    files = put_model(store, tiny_model, "interrupted", "m")
    mark = fetching.PartialDownload.mark

    def stop_after_the_first(self: fetching.PartialDownload, name: str, size: int) -> None:
        mark(self, name, size)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fetching.PartialDownload, "mark", stop_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            fetch_s3_model("s3://interrupted/m", tmp_path, False)
    assert not list(tmp_path.glob("base_models/[0-9a-f]*/m"))

    fetch_s3_model("s3://interrupted/m", tmp_path, False)

    assert f"Downloading {len(files) - 1} of {len(files)} objects" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s3://models/nothing/here", ": not a model, which has config.json and weights"),
        ("s3://notamodel/rows", "directly below the prefix; there are rows.jsonl"),
        ("s3://nobucket/m", "has no bucket nobucket"),
        ("s3://", "names no bucket"),
    ],
)
def test_what_is_not_a_model_is_refused(store: S3Server, tmp_path: Path, uri: str, problem: str):
    store.put("models", "x", b"x")
    store.put("notamodel", "rows/rows.jsonl", b"{}")

    message = error_of(fetch_s3_model, uri, tmp_path, False)

    assert message.startswith(f"training_base_model={uri}") and problem in message


def test_a_server_that_answers_as_no_store_does_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    listing = b"<ListBucketResult><Contents><Key>m/config.json</Key><Size>x</Size></Contents></ListBucketResult>"
    with HttpFileServer(files={"/models": File(listing)}) as site:
        monkeypatch.setenv("AWS_S3_ENDPOINT", site.url)
        message = error_of(fetch_s3_model, "s3://models/m", tmp_path, False)

    assert message.startswith(f"training_base_model=s3://models/m: the S3 store {site.url} answers as no S3 store does")
    assert "\n" not in message


@pytest.mark.slow
def test_preprocess_takes_a_model_from_s3(
    store: S3Server, tiny_model: Path, chat_rows: Path, tmp_path: Path, kfp_local: KfpLocal
):
    put_model(store, tiny_model, "whole", "tiny")
    result = kfp_local.run(
        preprocess,
        dataset_path=str(chat_rows),
        pvc_path=str(tmp_path / "pvc"),
        training_base_model="s3://whole/tiny",
        **TINY_TRAINING,
    )

    assert '"base_model": "s3://whole/tiny"' in result.outputs["training_config"]
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in result.outputs["training_config"] + result.log
