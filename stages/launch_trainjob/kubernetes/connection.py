"""The connection to the cluster: its address, the token and the trusted certificate authorities."""

import os
import ssl
import urllib.request
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.redaction import SECRET, redacted
from kfp_osft.stages.launch_trainjob.kubernetes.client import Cluster

SERVER_URL, AUTH_TOKEN, NAMESPACE = "KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN", "KUBERNETES_NAMESPACE"
#: Where Kubernetes mounts a pod's identity.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def is_configured() -> bool:
    """Whether a cluster is configured, or this is a pod of one."""
    return any(os.environ.get(name) for name in (SERVER_URL, AUTH_TOKEN)) or (SERVICE_ACCOUNT / "token").is_file()


def connect() -> Cluster:
    """Connects with KUBERNETES_SERVER_URL and KUBERNETES_AUTH_TOKEN, else with the pod's service account.

    TLS is always verified, against the system's certificate authorities and, if mounted, the cluster's own.

    Raises:
        InputError: only one of the two variables is set; no credentials at all; no namespace.
    """
    from kubernetes import client
    from urllib3 import Retry

    url, token = os.environ.get(SERVER_URL, "").strip(), os.environ.get(AUTH_TOKEN, "").strip()
    if bool(url) != bool(token):
        given, missing = (SERVER_URL, AUTH_TOKEN) if url else (AUTH_TOKEN, SERVER_URL)
        raise InputError(
            f"{given} is set and {missing} is not; set both to train on that cluster, or neither to "
            "use the pod's service account"
        )
    if url and not url.startswith("https://"):
        raise InputError(
            # The two may be interchanged.
            f"{SERVER_URL}={redacted(url) if '://' in url else SECRET} is not allowed; allowed: https://host[:port], "
            "since the token is sent there"
        )
    token_file = None
    if not url:
        token_file = SERVICE_ACCOUNT / "token"
        url, token = _own_server(), _read(token_file)
    # Any: its attributes have no annotations, and their types are not those of the defaults.
    configuration: Any = client.Configuration()
    configuration.host = url.rstrip("/")
    configuration.api_key = {"authorization": token}
    configuration.api_key_prefix = {"authorization": "Bearer"}
    configuration.ssl_ca_cert = str(certificate_authorities())
    proxies = urllib.request.getproxies()
    configuration.proxy, configuration.no_proxy = proxies.get("https"), proxies.get("no")
    # Cluster retries requests itself, see client.py.
    configuration.retries = Retry(0)
    return Cluster(client.ApiClient(configuration), _namespace(), token_file)


def _own_server() -> str:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (SERVICE_ACCOUNT / "token").is_file():
        raise InputError(f"there is no cluster: neither {SERVER_URL} and {AUTH_TOKEN} nor a service account was found")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _namespace() -> str:
    namespace = os.environ.get(NAMESPACE, "").strip()
    if namespace:
        return namespace
    if (SERVICE_ACCOUNT / "namespace").is_file():
        return _read(SERVICE_ACCOUNT / "namespace")
    raise InputError(
        "the namespace for the TrainJob is not known, since this is not a pod with a service account; set the "
        f"environment variable {NAMESPACE} along with {SERVER_URL}"
    )


def certificate_authorities() -> Path:
    """One PEM file, as the client wants it, with the authorities of the system and, in a pod, of the cluster."""
    system = ssl.get_default_verify_paths().cafile
    if not system:
        import certifi

        system = certifi.where()
    mounted = SERVICE_ACCOUNT / "ca.crt"
    if not mounted.is_file():
        return Path(system)
    # In memory: a stage that is killed leaves nothing behind.
    bundle = os.memfd_create("ca.crt")
    with open(bundle, "w", encoding="utf-8", closefd=False) as file:
        file.write(f"{_read(Path(system))}\n{_read(mounted)}\n")
    return Path(f"/proc/self/fd/{bundle}")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()
