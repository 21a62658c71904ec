import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import trustme

from fakes.http import File, HttpFileServer
from kfp_osft.shared.network import certificates
from kfp_osft.shared.network.certificates import (
    CA_BUNDLE,
    CLIENT_VARIABLES,
    bundle_variables,
    move_bundle,
    trust_private_authorities,
)
from kfp_osft.shared.reporting.errors import InputError

VARIABLES = [CA_BUNDLE, *CLIENT_VARIABLES]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any of the variables, and as it was afterwards; nothing is mounted."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(certificates, "MOUNT_PATH", str(tmp_path / "mounted"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """PEM file of the authority of `site`."""
    return tmp_path / "ca.pem"


@pytest.fixture
def site(authority: Path, tmp_path: Path) -> Iterator[HttpFileServer]:
    made = trustme.CA()
    made.cert_pem.write_to_path(authority)
    made.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with HttpFileServer(
        {"/bucket/x": File(b"<x/>"), "/": File(b"x")}, certificate=str(tmp_path / "server.pem")
    ) as site:
        yield site


def read_by_requests(url: str) -> None:
    import requests

    requests.get(url, timeout=10).raise_for_status()


def read_by_huggingface_hub(url: str) -> None:
    from huggingface_hub import close_session, get_session

    close_session()
    try:
        get_session().get(url).raise_for_status()
    finally:
        close_session()


def read_by_botocore(url: str) -> None:
    import boto3
    from botocore.config import Config

    config = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"})
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    boto3.Session().client("s3", endpoint_url=url, config=config, **keys).get_object(Bucket="bucket", Key="x")


def read_by_python(url: str) -> None:
    urlopen(url, timeout=10).close()


def read_by_skopeo(url: str) -> None:
    """A registry's answer is needed for a success: that the connection stands is seen from another error."""
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    command = ["skopeo", "inspect", f"docker://{url.removeprefix('https://')}/org/model:1"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    if "x509" in said or "certificate" in said:
        raise ssl.SSLError(said)


def read_by_the_kubernetes_client(url: str) -> None:
    from kfp_osft.stages.launch_trainjob.kubernetes.connection import _certificate_authorities

    urlopen(url, timeout=10, context=ssl.create_default_context(cafile=str(_certificate_authorities()))).close()


CLIENTS = [
    read_by_requests,
    read_by_huggingface_hub,
    read_by_python,
    read_by_skopeo,
    read_by_the_kubernetes_client,
]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_private_authority_is_not_trusted_without_them(client, site: HttpFileServer):
    trust_private_authorities()
    with pytest.raises(Exception, match=r"certificate|x509|CERTIFICATE"):
        client(site.url)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", VARIABLES)
def test_the_authority_in_any_variable_is_trusted_by_every_client(
    name: str, client, site: HttpFileServer, authority: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, str(authority))
    trust_private_authorities()
    client(site.url)


def test_s3_clients_trust_it_too(site: HttpFileServer, authority: Path, monkeypatch: pytest.MonkeyPatch):
    from botocore.exceptions import SSLError

    with pytest.raises(SSLError):
        read_by_botocore(site.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    trust_private_authorities()
    read_by_botocore(site.url)


def test_the_mounted_config_map_is_trusted_and_its_empty_keys_are_none(
    site: HttpFileServer, authority: Path, tmp_path: Path
):
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "odh-ca-bundle.crt").write_text("\n")
    trust_private_authorities()
    assert CA_BUNDLE not in os.environ

    shutil.copy(authority, folder / "ca-bundle.crt")
    trust_private_authorities()
    read_by_requests(site.url)


def test_a_folder_of_files_is_a_bundle(site: HttpFileServer, authority: Path, monkeypatch, tmp_path: Path):
    folder = tmp_path / "authorities"
    folder.mkdir()
    shutil.copy(authority, folder / "company.crt")
    (folder / "README").write_text("not a certificate")
    monkeypatch.setenv(CA_BUNDLE, str(folder))
    trust_private_authorities()
    read_by_requests(site.url)


def test_the_public_authorities_stay_trusted(authority: Path, site: HttpFileServer, monkeypatch: pytest.MonkeyPatch):
    import certifi

    monkeypatch.setenv(CA_BUNDLE, str(authority))
    trust_private_authorities()
    bundle = Path(os.environ["SSL_CERT_FILE"]).read_text()
    public = certificates._certificates(Path(certifi.where()))
    assert public and all(certificate in bundle for certificate in public)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_bundle_that_is_not_there_is_an_error_that_names_variable_and_file(name: str, monkeypatch):
    monkeypatch.setenv(name, "/certs/gone.crt")
    with pytest.raises(InputError) as caught:
        trust_private_authorities()
    assert str(caught.value) == (
        f"{name}=/certs/gone.crt in the environment: there is no such file; mount the ConfigMap or Secret with the "
        "certificates there"
    )


@pytest.mark.parametrize(
    "content", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"], ids=["", "text", "cut"]
)
def test_a_bundle_without_certificates_is_an_error(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv(CA_BUNDLE, str(tmp_path / "ca.pem"))
    with pytest.raises(InputError, match=r"^OSFT_CA_BUNDLE=.*: holds no certificates in PEM form$"):
        trust_private_authorities()


def test_training_pods_get_the_bundle_by_the_workspace(
    authority: Path, site: HttpFileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    assert bundle_variables(os.environ, "/pvc") == {}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    trust_private_authorities()
    assert bundle_variables(os.environ, str(tmp_path / "pvc")) == {}

    move_bundle(tmp_path / "pvc/.cache/certificates")
    moved = str(tmp_path / "pvc/.cache/certificates/ca-bundle.crt")
    assert bundle_variables(os.environ, str(tmp_path / "pvc")) == dict.fromkeys(CLIENT_VARIABLES, moved)
    read_by_requests(site.url)
