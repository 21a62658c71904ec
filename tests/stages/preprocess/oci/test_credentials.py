"""Credentials in all of Docker's forms, and that they are never shown."""

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.registry import (
    PASSWORD,
    USER,
    Gate,
    Layout,
    Registry,
    docker_config,
)
from helpers.errors import error_of
from helpers.files import contents
from helpers.oci_models import MODEL, below, needs_registry
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE, docker_auths
from kfp_osft.stages.preprocess.oci.model import pull_model

AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
WRONG = base64.b64encode(f"{USER}:wrong-horse-battery".encode()).decode()


@needs_registry
@pytest.mark.parametrize(
    "auths",
    [
        {"{host}": {"auth": AUTH}},
        {"http://{host}": {"auth": AUTH}},
        {"https://{host}/v1/": {"auth": AUTH, "email": "a@b"}},
        {"https://{host}/v2/": {"auth": AUTH}},
        {"{host}": {"username": USER, "password": PASSWORD}},
        {"{host}": {"username": USER, "password": PASSWORD, "auth": ""}},
        {"{host}/org": {"auth": AUTH}, "{host}": {"auth": WRONG}},
        {"{host}/org/private": {"auth": AUTH}, "{host}/org": {"auth": WRONG}},
        {"{host}": {"auth": AUTH}, "{host}/other": {"auth": WRONG}, "quay.io": {"auth": WRONG}, "ghcr.io": {}},
    ],
    ids=lambda auths: " ".join(auths),
)
def test_every_form_of_credentials_opens_a_registry(
    locked_registry: tuple[Registry, str], workspace: Path, monkeypatch: pytest.MonkeyPatch, auths: dict
):
    registry, reference = locked_registry
    monkeypatch.setenv(SECRET_VARIABLE, json.dumps({"auths": auths}).replace("{host}", registry.host))

    assert contents(pull_model(reference, workspace)) == MODEL


@needs_registry
@pytest.mark.parametrize(
    ("config", "state"),
    [
        (None, "it is not set"),
        ("  \n", "it is not set"),
        ('{"auths": {}}', "it has no entry for this registry in 'auths'"),
        (f'{{"auths": {{"quay.io": {{"auth": "{AUTH}"}}}}}}', "it has no entry for this registry in 'auths'"),
        (f'{{"auths": {{"{{host}}": {{"auth": "{WRONG}"}}}}}}', "its entry for this registry was not accepted"),
        (f'{{"auths": {{"{{host}}/other": {{"auth": "{AUTH}"}}}}}}', "its entry for this registry was not accepted"),
    ],
)
def test_a_denied_pull_names_the_secret_and_says_what_it_holds(
    locked_registry: tuple[Registry, str],
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str | None,
    state: str,
):
    registry, reference = locked_registry
    if config is not None:
        monkeypatch.setenv(SECRET_VARIABLE, config.replace("{host}", registry.host))

    message = error_of(pull_model, reference, workspace)

    assert message.startswith(
        f"training_base_model={reference}: the registry {registry.host} denied access. It needs credentials in "
        "OCI_PULL_SECRET_MODEL_DOWNLOAD (of the Secret oci-pull-secret-model-download, the content of a Docker "
        f"config.json): {state}. Some registries also answer this way when the repository does not exist (skopeo: "
    )


@needs_registry
@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_credentials_appear_in_no_argument_variable_log_or_file(
    locked_registry: tuple[Registry, str],
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    in_memory: bool,
    is_right: bool,
):
    registry, reference = locked_registry
    password = PASSWORD if is_right else "wrong-horse-battery"
    config = docker_config(registry.host, password)
    monkeypatch.setenv(SECRET_VARIABLE, config)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    # A skopeo that records its arguments and environment, and the modes of the credentials' file.
    seen = tmp_path / "seen"
    seen.mkdir()
    wrapper = tmp_path / "bin" / "skopeo"
    wrapper.parent.mkdir()
    wrapper.write_text(f"""#!/bin/sh
        echo "$@" >> {seen}/arguments; env >> {seen}/environment; find {temporary} -printf '%m %y\\n' >> {seen}/modes
        exec {shutil.which("skopeo")} "$@"
    """)
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    for name in ("DB_PASS", "HF_TOKEN", "KUBERNETES_AUTH_TOKEN", "COLOR"):
        monkeypatch.setenv(name, "canary-of-others")

    message = ""
    if is_right:
        pull_model(reference, workspace)
    else:
        message = error_of(pull_model, reference, workspace)

    output = capfd.readouterr()
    everywhere = [message, output.out, output.err] + [
        file.read_text(errors="replace")
        for folder in (seen, workspace, temporary)
        for file in folder.rglob("*")
        if file.is_file()
    ]
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    assert not [text for text in everywhere if password in text or auth in text or "canary" in text]
    assert (
        "--authfile=" in (seen / "arguments").read_text() and SECRET_VARIABLE not in (seen / "environment").read_text()
    )
    assert list(temporary.iterdir()) == []
    modes = set((seen / "modes").read_text().split("\n")) - {"755 d", ""}
    assert modes == (set() if in_memory else {"700 d", "600 f"})


@needs_registry
def test_an_identity_token_opens_a_registry(
    registry: Registry, push: Callable, layout: Layout, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    with Gate(registry) as gate:
        gate.refresh_token = "an-identity-token"
        reference = gate.through(push(layout.tar(below("models"))))
        monkeypatch.setenv(SECRET_VARIABLE, docker_config(gate.host, identitytoken="another-token"))
        message = error_of(pull_model, reference, workspace)
        assert f"the registry {gate.host} denied access" in message and "another-token" not in message

        monkeypatch.setenv(SECRET_VARIABLE, docker_config(gate.host, identitytoken="an-identity-token"))
        assert contents(pull_model(reference, workspace)) == MODEL


@needs_registry
def test_without_the_secret_the_users_own_login_is_used(locked_registry: tuple[Registry, str], workspace: Path):
    registry, reference = locked_registry
    Path(os.environ["REGISTRY_AUTH_FILE"]).write_text(docker_config(registry.host))

    assert contents(pull_model(reference, workspace)) == MODEL


NOT_A_CONFIG = (
    "OCI_PULL_SECRET_MODEL_DOWNLOAD (of the Secret oci-pull-secret-model-download) is not the content of a "
    "Docker config.json: "
)
HELPERS = (
    "it leaves the credentials to a helper program (credsStore, credHelpers), which a stage does not have; "
    "put them in 'auths'"
)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("hunter2", "it is not JSON"),
        ('{"auths": {"quay.io": {"auth": "hunter2"}', "it is not JSON"),
        ('["hunter2"]', "it is not an object with an object 'auths'"),
        ('"hunter2"', "it is not an object with an object 'auths'"),
        ('{"auths": ["hunter2"]}', "it is not an object with an object 'auths'"),
        ('{"auths": null}', "it is not an object with an object 'auths'"),
        ("{}", "it has no 'auths'"),
        ('{".dockerconfigjson": "hunter2"}', "it has no 'auths'"),
        ('{"auths": {"quay.io": "hunter2"}}', "entry 1 of 'auths' is not an object"),
        (
            '{"auths": {"ghcr.io": {}, "quay.io": {"auth": "hunter2"}}}',
            "'auth' in entry 2 of 'auths' is not user:password in base64",
        ),
        (
            '{"auths": {"quay.io": {"auth": "aHVudGVyMg=="}}}',
            "'auth' in entry 1 of 'auths' is not user:password in base64",
        ),
        ('{"auths": {"quay.io": {"auth": "//8="}}}', "'auth' in entry 1 of 'auths' is not user:password in base64"),
        ('{"auths": {"quay.io": {"username": "u", "password": 2}}}', "a value in entry 1 of 'auths' is not a string"),
        ('{"credsStore": "desktop"}', HELPERS),
        ('{"auths": {"quay.io": {}}, "credsStore": "desktop"}', HELPERS),
        ('{"auths": {}, "credHelpers": {"quay.io": "ecr-login"}}', HELPERS),
    ],
)
def test_malformed_credentials_are_reported_without_showing_them(config: str, problem: str):
    assert error_of(docker_auths, config) == NOT_A_CONFIG + problem


def test_malformed_credentials_are_reported_before_a_registry_is_contacted(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(SECRET_VARIABLE, "hunter2")

    assert error_of(pull_model, "oci://no-such-host.invalid/model", workspace) == NOT_A_CONFIG + "it is not JSON"
