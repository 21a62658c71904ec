"""Serves a loaded model over HTTP while an Eval Hub's job measures it: of OpenAI's completions API, what benchmarks ask
for (prompts in batches, echo with logprobs, greedy text).

`transformers serve` has no logprobs of the prompt, and not every image of the stages has vLLM.
"""

import hmac
import json
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import keep_secret
from kfp_osft.stages.evaluate_model.completions import Completions, Refused

_LONGEST_BODY = 64 << 20


class ModelServer:
    """A model that is being served.

    Attributes:
        url: the API's base, with a secret in its path: who does not know it gets a 404.
        place: host and port, which may be shown.
        requests: how many the model has answered, or refused.
    """

    def __init__(self, completions: Completions, name: str, host: str) -> None:
        """name: of the model in the API. host: address of this computer to listen at, on a free port."""
        self.completions, self.name, self.requests = completions, name, 0
        # The model computes one answer at a time.
        self.turn = threading.Lock()
        self.path = f"/{secrets.token_urlsafe(24)}/v1"
        # Others put the URL into their errors.
        keep_secret(self.path.split("/")[1])
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # A client that hangs up is no news.
        told = {"address_family": family, "handle_error": lambda *_: None}
        self.http = type("Server", (ThreadingHTTPServer,), told)(
            (host, 0), type("Handler", (_Handler,), {"site": self})
        )
        self.place = f"{f'[{host}]' if ':' in host else host}:{self.http.server_port}"
        self.url = f"http://{self.place}{self.path}"


@contextmanager
def served_model(model: Any, tokenizer: Any, name: str, host: str) -> Iterator[ModelServer]:
    """Serves the model while the block runs.

    Args:
        model: a transformers causal language model.
        tokenizer: the model's.
        name: that requests must call the model by.
        host: address of this computer to listen at.
    """
    server = ModelServer(Completions(model, tokenizer), name, host)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    site: ModelServer
    # Of silence in the middle of a request.
    timeout = 60

    def do_GET(self) -> None:
        self._answer("/models", lambda: {"object": "list", "data": [{"id": self.site.name, "object": "model"}]})

    def do_POST(self) -> None:
        self._answer("/completions", self._complete)

    def log_message(self, format: str, *args: object) -> None:
        """The path is a secret."""

    def _answer(self, path: str, answer: Any) -> None:
        try:
            if not hmac.compare_digest(self.path.encode(), f"{self.site.path}{path}".encode()):
                raise Refused(404, "there is nothing here")
            status, body = 200, answer()
        except Refused as refused:
            status, body = refused.status, _error(str(refused), refused.code)
        # Whatever the model raises, the job is to hear of it.
        except Exception as error:
            log(f"Warning: the model failed on a benchmark's request: {type(error).__name__}: {error}")
            status, body = 500, _error(f"{type(error).__name__}: {error}", None)
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _complete(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > _LONGEST_BODY:
            raise Refused(413, f"the request needs a Content-Length of at most {_LONGEST_BODY}")
        try:
            request = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(400, "the request is not JSON") from None
        if not isinstance(request, Mapping):
            raise Refused(400, "the request is not an object")
        if request.get("model", self.site.name) != self.site.name:
            raise Refused(404, f"the model here is {self.site.name}", "model_not_found")
        with self.site.turn:
            self.site.requests += 1
            choices, usage = self.site.completions.answer(request)
        return {
            "id": f"cmpl-{self.site.requests}",
            "object": "text_completion",
            "created": 0,
            "model": self.site.name,
            "choices": choices,
            "usage": usage,
        }


def _error(message: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
