import socket

import pytest

from kfp_osft.pipelines.local import reachable
from kfp_osft.pipelines.local.reachable import check_reachable, unreachable
from kfp_osft.shared.reporting.errors import InputError

CLOSED = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_proxy_and_no_hub(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)


@pytest.mark.parametrize(
    ("rows", "training", "named"),
    [
        ({"dataset_uri": "org/rows"}, {}, "dataset_uri=org/rows: the Hugging Face Hub (127.0.0.1) cannot be reached"),
        ({"dataset_uri": "hf://org/rows"}, {}, "dataset_uri=hf://org/rows: the Hugging Face Hub"),
        ({"validation_uri": "org/rows"}, {}, "validation_uri=org/rows: the Hugging Face Hub"),
        ({}, {"training_base_model": "org/m"}, "training_base_model=org/m: the Hugging Face Hub (127.0.0.1)"),
    ],
)
def test_what_would_be_fetched_from_a_hub_that_does_not_answer_is_named(rows, training, named):
    with pytest.raises(InputError) as error:
        check_reachable(rows, training)
    assert str(error.value).startswith(named)
    assert "is there no network? (Connection refused)" in str(error.value)


def test_an_address_is_named_without_what_may_be_secret_in_it():
    with pytest.raises(InputError, match=r"^dataset_uri=127\.0\.0\.1: its host") as error:
        check_reachable({"dataset_uri": f"{CLOSED}/rows.jsonl?signature=secret"}, {})
    assert "secret" not in str(error.value)


def test_what_is_on_this_computer_or_has_another_client_needs_no_network(tmp_path, chat_rows, tiny_model):
    check_reachable({"dataset_uri": str(chat_rows)}, {"training_base_model": str(tiny_model)})
    check_reachable({"dataset_uri": "s3://bucket/rows"}, {"training_base_model": "oci://registry/model:1"})
    check_reachable({"dataset_uri": ""}, {})


def test_a_model_in_the_cache_needs_no_hub(tmp_path, monkeypatch):
    folder = tmp_path / "models--org--m"
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    check_reachable({}, {"training_base_model": "org/m"})


def test_a_host_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(reachable, "_SECONDS", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        # The queue is full: further connections get no answer.
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        assert unreachable(f"http://127.0.0.1:{port}") == "no answer in time"
        for client in waiting:
            client.close()


def test_with_a_proxy_the_proxy_is_asked(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert unreachable("https://nowhere.invalid/rows.jsonl") is None
