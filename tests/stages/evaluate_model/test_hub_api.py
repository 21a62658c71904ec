"""An Eval Hub's address, TLS, token and faults."""

import time

import pytest
import trustme

from fakes.eval_hub import FakeEvalHub
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.evaluate_model import hub_api
from kfp_osft.stages.evaluate_model.hub_api import TENANT, TOKEN, EvalHub, check_hub_url

PROVIDERS = "/api/v1/evaluations/providers"
SECRET = "a-token-of-some-length"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No variables, no pod, and no pauses."""
    for name in (TOKEN, TENANT, "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_api, "_ACCOUNT", tmp_path / "account")
    monkeypatch.setattr(hub_api, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def with_tls(authority, tmp_path):
    """A hub with a certificate of the authority."""
    certificate = tmp_path / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with FakeEvalHub(certificate=str(certificate)) as hub:
        yield hub


@pytest.fixture
def in_a_pod(tmp_path):
    """Where Kubernetes mounts a service account."""
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("the-token-of-the-pod\n")
    (account / "namespace").write_text("my-project")
    return account


@pytest.mark.parametrize(
    "url",
    [
        "hub.example.org",
        "ftp://hub.example.org",
        "https://",
        "https://hub.example.org:port",
        "https://hub.example.org:99999",
        "https://user:geheim123@hub.example.org",
        "https://hub.example.org/?token=geheim123",
        "https://hub.example.org/#geheim123",
        "https://hub example.org",
        "https://[::1",
    ],
)
def test_a_url_that_is_not_one_of_a_hub_is_refused_without_showing_a_secret_in_it(url):
    with pytest.raises(InputError, match=r"^eval_hub_url=.* is not allowed; allowed: https://host or ") as refused:
        check_hub_url(url)
    assert "geheim123" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://hub.example.org", "https://hub.example.org:8443/path/", " http://localhost "])
def test_a_url_with_a_port_or_a_path_is_allowed(url):
    check_hub_url(url)


def test_a_token_is_never_sent_without_tls(monkeypatch, in_a_pod):
    with FakeEvalHub() as hub:
        EvalHub(hub.url).get("/evaluations/providers")
        monkeypatch.setenv(TOKEN, SECRET)
        with pytest.raises(
            InputError, match="eval_hub_url=http://.* would show the token of EVAL_HUB_TOKEN"
        ) as refused:
            EvalHub(hub.url)
    assert SECRET not in str(refused.value)
    ((_, _, headers, _),) = hub.requests
    assert "Authorization" not in headers and headers["X-Tenant"] == "my-project"


@pytest.mark.parametrize(
    ("host", "is_sent"),
    [("hub.project.svc:8443", True), ("hub.project.svc.cluster.local", True), ("hub.example.org", False)],
)
def test_the_pods_token_goes_to_services_of_the_cluster_alone(in_a_pod, monkeypatch, host, is_sent):
    hub = EvalHub(f"https://{host}")
    assert ("Authorization" in hub._headers()) is is_sent
    monkeypatch.setenv(TOKEN, SECRET)
    assert hub._headers()["Authorization"] == f"Bearer {SECRET}"


def test_plain_http_to_another_computer_is_warned_of_and_to_this_one_is_not(capsys):
    EvalHub("http://localhost:8080")
    EvalHub("http://127.0.0.1:8080")
    assert capsys.readouterr().out == ""
    EvalHub("http://hub.example.org")
    assert "Warning: eval_hub_url=http://hub.example.org has no TLS: anybody on the way" in capsys.readouterr().out


def test_a_certificate_of_an_unknown_authority_is_refused_at_once(with_tls):
    began = time.monotonic()
    with pytest.raises(InputError, match="TLS failed: its certificate is not trusted .*; set OSFT_CA_BUNDLE"):
        EvalHub(with_tls.url).get("/evaluations/providers")
    assert with_tls.requests == [] and time.monotonic() - began < 10


@pytest.mark.parametrize("where", ["SSL_CERT_FILE", "service-ca.crt"])
def test_the_variables_authorities_and_openshifts_own_are_trusted(
    with_tls, authority, monkeypatch, tmp_path, in_a_pod, where
):
    if where == "SSL_CERT_FILE":
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    else:
        authority.cert_pem.write_to_path(str(in_a_pod / "service-ca.crt"))
    assert EvalHub(with_tls.url).get("/evaluations/providers")["limit"] == 50


def test_with_tls_the_pods_token_and_namespace_are_sent_or_those_of_the_variables(
    with_tls, authority, monkeypatch, in_a_pod
):
    authority.cert_pem.write_to_path(str(in_a_pod / "service-ca.crt"))
    hub = EvalHub(with_tls.url)
    hub.get("/evaluations/providers")
    # Kubernetes replaces it while a job runs.
    (in_a_pod / "token").write_text("another-token-of-the-pod")
    hub.get("/evaluations/providers")
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.setenv(TENANT, "their-project")
    hub.get("/evaluations/providers")
    sent = [(headers["Authorization"], headers["X-Tenant"]) for _, _, headers, _ in with_tls.requests]
    assert sent == [
        ("Bearer the-token-of-the-pod", "my-project"),
        ("Bearer another-token-of-the-pod", "my-project"),
        (f"Bearer {SECRET}", "their-project"),
    ]


@pytest.mark.parametrize("variable", [TOKEN, TENANT])
def test_a_variable_that_is_no_header_is_named_and_its_value_is_not(with_tls, monkeypatch, variable):
    monkeypatch.setenv(variable, "geheim123\nX-User: admin")
    with pytest.raises(InputError, match=f"^{variable} in the environment is not allowed; allowed: one") as refused:
        EvalHub(with_tls.url).get("/evaluations/providers")
    assert "geheim123" not in str(refused.value) and with_tls.requests == []


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            (401, {"message": f"no: {SECRET}"}),
            "does not let this stage in, with the token .*HTTP 401, no: [*]{3}.*EVAL_",
        ),
        ((403, b"forbidden"), "does not let this stage in, .*HTTP 403"),
        ((404, b"404 page not found"), f"no Eval Hub answers there; nothing is at {PROVIDERS}$"),
        ((302, b""), "redirects to another address; give that one"),
        ((400, {"message": "The limit is wrong.\x1b[31m"}), "HTTP 400, The limit is wrong[.]$"),
        ((200, b"<html>"), "its answer at .*providers is not that of an Eval Hub"),
        ((200, []), "is not that of an Eval Hub"),
        ((200, b"[" * 100_000), "is not that of an Eval Hub"),
        ((500, {"message": "database is locked"}), "HTTP 500, database is locked$"),
        ((503, b"<html>"), "HTTP 503$"),
    ],
)
def test_what_a_hub_refuses_is_one_sentence(with_tls, authority, monkeypatch, tmp_path, answer, problem):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv(TOKEN, SECRET)
    with_tls.answers["GET", PROVIDERS] = answer
    with pytest.raises(InputError, match=f"^eval_hub_url={with_tls.url}: .*{problem}") as refused:
        EvalHub(with_tls.url).get("/evaluations/providers")
    message = str(refused.value)
    assert SECRET not in message and "\n" not in message and "\x1b" not in message
    assert len(with_tls.requests) == (7 if answer[0] >= 500 else 1)


def test_a_hub_that_comes_back_is_asked_again_but_a_job_is_not_made_twice():
    with FakeEvalHub() as fake:
        fake.answers["GET", PROVIDERS] = fake.answers["POST", "/api/v1/evaluations/jobs"] = _hang_up_twice(fake)
        assert EvalHub(fake.url).get("/evaluations/providers") == {}
        assert len(fake.requests) == 3
        fake.requests.clear()
        with pytest.raises(InputError, match="the connection was closed early"):
            EvalHub(fake.url).post("/evaluations/jobs", {})
        assert len(fake.requests) == 1


def test_an_answer_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(hub_api, "_LONGEST_ANSWER", 1 << 20)

    def drown(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * (1 << 16))

    with FakeEvalHub() as fake:
        fake.answers["GET", PROVIDERS] = drown
        with pytest.raises(InputError, match="no answer in time"):
            EvalHub(fake.url).get("/evaluations/providers", tries=2)


def test_a_host_that_does_not_exist_is_named_at_once():
    hub = EvalHub("https://hub.invalid")
    for ask in (lambda: hub.get("/evaluations/providers"), hub.address_here):
        with pytest.raises(InputError, match="^eval_hub_url=https://hub.invalid: its host name cannot be resolved"):
            ask()


def test_the_address_here_is_that_of_the_way_to_the_hub():
    assert EvalHub("http://127.0.0.1:1").address_here() == "127.0.0.1"


def _hang_up_twice(fake):
    def answer(handler):
        if len(fake.requests) < 3:
            handler.close_connection = True
            handler.connection.close()
            return
        handler.send_response(200)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"{}")

    return answer
