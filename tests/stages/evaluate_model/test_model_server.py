"""A model over HTTP: only for who knows the path, only under its name, and only while it is served."""

import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from kfp_osft.shared.reporting.redaction import shown
from kfp_osft.stages.evaluate_model.model_server import served_model


@pytest.fixture
def server(loaded):
    with served_model(*loaded, "tiny-osft", "127.0.0.1") as server:
        yield server


def ask(url, body=None):
    """Status and JSON."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content), timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_it_has_the_model_under_its_name_and_answers_completions(server):
    assert ask(f"{server.url}/models") == (
        200,
        {"object": "list", "data": [{"id": "tiny-osft", "object": "model"}]},
    )
    status, answer = ask(f"{server.url}/completions", {"model": "tiny-osft", "prompt": ["a", "b"], "max_tokens": 3})
    assert status == 200 and [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["model"] == "tiny-osft" and answer["object"] == "text_completion"
    assert server.requests == 1


def test_without_the_path_there_is_nothing_and_the_path_is_never_shown(server):
    for path in ("/v1/models", "/v1/completions", "/", f"{server.path}x/models"):
        assert ask(f"http://{server.place}{path}")[0] == 404
        assert ask(f"http://{server.place}{path}", {"prompt": "a"})[0] == 404
    assert server.requests == 0
    assert shown(f"Max retries exceeded with url: {server.path}/completions") == (
        "Max retries exceeded with url: /***/v1/completions"
    )


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "other", "prompt": "a"}, 404, "the model here is tiny-osft"),
        ({"prompt": "a", "temperature": 1}, 400, "temperature can only be 0 here"),
        ([], 400, "the request is not an object"),
        (b"{", 400, "the request is not JSON"),
        (b"[" * 100_000, 400, "the request is not JSON"),
    ],
)
def test_errors_have_the_form_of_openais(server, body, status, message):
    found, answer = ask(f"{server.url}/completions", body)
    assert (found, answer["error"]["message"], answer["error"]["type"]) == (status, message, "invalid_request_error")


def test_a_length_that_is_none_or_too_large_is_refused_before_anything_is_read(server):
    for length in ("-1", "many", str(1 << 40)):
        with socket.create_connection(server.place.split(":"), timeout=10) as connection:
            connection.sendall(f"POST {server.path}/completions HTTP/1.0\r\nContent-Length: {length}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.0 413")


def test_a_model_that_fails_is_an_error_of_the_server_and_is_logged(server, monkeypatch, capsys):
    def fail(request):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(server.completions, "answer", fail)
    status, answer = ask(f"{server.url}/completions", {"prompt": "a"})
    assert status == 500 and answer["error"]["message"] == "RuntimeError: out of memory"
    assert "the model failed on a benchmark's request: RuntimeError: out of memory" in capsys.readouterr().out


def test_requests_at_once_are_answered_one_by_one_and_the_place_is_free_afterwards(loaded):
    with served_model(*loaded, "tiny-osft", "127.0.0.1") as server:
        body = {"model": "tiny-osft", "prompt": "The capital of Peru is", "max_tokens": 8}
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(f"{server.url}/completions", body)[1]["choices"]))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 6 and all(answer == answers[0] for answer in answers)
    with pytest.raises(OSError, match="refused"):
        ask(f"{server.url}/models")
