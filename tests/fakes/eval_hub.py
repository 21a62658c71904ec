"""A stand-in for an Eval Hub with one provider, whose faults a test chooses.

Unlike the real one it knows no tenants and runs nothing: a job goes through the states that it is given.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fakes.local_server import LocalServer, QuietHandler

PROVIDER = {
    "resource": {"id": "lm_evaluation_harness", "owner": "system"},
    "name": "LM Evaluation Harness",
    "runtime": {"k8s": {"image": "quay.io/example/adapter:1"}},
    "benchmarks": [
        {
            "id": "arc_easy",
            "metrics": ["acc", "acc_norm"],
            "num_few_shot": 5,
            "dataset_size": 2376,
            "primary_score": {"metric": "acc_norm"},
        },
        {"id": "wikitext", "metrics": ["word_perplexity"], "primary_score": {"metric": "ppl", "lower_is_better": True}},
    ],
}
OWN = {
    "resource": {"id": "0b5f0b0e", "owner": "somebody"},
    "name": "mine",
    "runtime": {},
    "benchmarks": [{"id": "suite/one"}],
}


@dataclass
class FakeEvalHub(LocalServer):
    """Attributes:
    providers: that it lists.
    states: of a job, one for each time that it is asked for; the last one stays.
    metrics: of each benchmark, once its job is completed.
    message: why a job failed.
    answers: method and path (without the query) -> status and body, bytes or JSON, in the place of its own answers; or
        a function of the handler, which answers itself.
    requests: method, path, headers and JSON of each so far.
    certificate: PEM file with key and certificate of a TLS server; empty for plain HTTP.
    """

    providers: list[Any] = field(default_factory=lambda: [PROVIDER, OWN])
    states: list[str] = field(default_factory=lambda: ["pending", "running", "completed"])
    metrics: dict[str, Any] = field(default_factory=lambda: {"acc": 0.5, "acc_norm": 0.25, "acc_norm_stderr": 0.1})
    message: str = "the adapter gave up"
    answers: dict[tuple[str, str], tuple[int, Any] | Callable[[Any], None]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    certificate: str = ""

    def handler(self) -> type[QuietHandler]:
        return _Handler

    def asked(self, method: str) -> list[tuple[str, Any]]:
        """Path and JSON of the requests of one method."""
        return [(path, body) for asked, path, _, body in self.requests if asked == method]


class _Handler(QuietHandler):
    site: FakeEvalHub

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        if path.endswith("/providers"):
            return self._send(200, {"items": site.providers, "limit": 50, "total_count": len(site.providers)})
        states = site.states
        state = states.pop(0) if len(states) > 1 else states[0]
        job = next(body for asked, _, _, body in site.requests if asked == "POST")
        (benchmark,) = job["benchmarks"]
        of = {"id": benchmark["id"], "provider_id": benchmark["provider_id"], "benchmark_index": 0}
        failed = {"error_message": {"message": site.message, "message_code": "x"}} if "failed" in state else {}
        status = {"state": state, "message": {"message": state}, "benchmarks": [{**of, **failed}]}
        results = {"benchmarks": [{**of, "metrics": site.metrics}]} if state == "completed" else {}
        return self._send(200, {**job, "resource": {"id": "job/1"}, "status": status, "results": results})

    def do_POST(self) -> None:
        self._send(202, {"resource": {"id": "job/1"}, "status": {"state": "pending"}})

    def do_DELETE(self) -> None:
        self._send(204, b"")

    def _send(self, status: int, body: Any) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = json.loads(content) if content else None
        self.site.requests.append((self.command, self.path, dict(self.headers), said))
        answer = self.site.answers.get((self.command, self.path.partition("?")[0]), (status, body))
        if callable(answer):
            return answer(self)
        status, body = answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "https://elsewhere.example.org/")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None
