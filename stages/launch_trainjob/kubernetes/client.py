"""One namespace of a Kubernetes cluster, through the official client: the few requests that a TrainJob needs.

Answers are plain dicts, as the API server sends them. Requests that may pass the next time (429, 5xx, connections
that break) are sent again with backoff and jitter by urllib3; what then still fails is a ClusterUnavailable.
"""

import json
import logging
import os
import ssl
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import TRAINER_GROUP, TRAINER_VERSION

SERVER_URL, AUTH_TOKEN, NAMESPACE = "KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN", "KUBERNETES_NAMESPACE"
#: Where Kubernetes mounts a pod's identity.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_RETRIED_STATUS = (429, 500, 502, 503, 504)
# For a connection, and for the next bytes of an answer.
_TIMEOUT_SECONDS = (10, 30)
_LOG_TIMEOUT_SECONDS = (10, 120)


class ClusterUnavailable(Exception):
    """The API server cannot be reached, or answers with errors of its own, also when asked again."""


class Forbidden(InputError):
    """The token may not do this; says which verb on which resource is missing (the server's own sentence)."""


class Refused(InputError):
    """The API server refuses the object (400, 409, 422, an admission webhook), with its sentence.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def is_configured() -> bool:
    """Whether a cluster is given, or this is a pod of one."""
    return any(os.environ.get(name) for name in (SERVER_URL, AUTH_TOKEN)) or (SERVICE_ACCOUNT / "token").is_file()


def connect(backoff_seconds: float = 0.5) -> "Cluster":
    """Connects with KUBERNETES_SERVER_URL and KUBERNETES_AUTH_TOKEN, else with the pod's service account.

    TLS is always verified, by the system's certificate authorities and, where it is mounted, the cluster's own.

    Args:
        backoff_seconds: before the second retry of a request; doubles with each further one.

    Raises:
        InputError: one of the two variables without the other; no identity at all; no namespace.
    """
    from kubernetes import client
    from urllib3 import Retry

    # Of its retries; what people are told is told once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    url, token = os.environ.get(SERVER_URL, "").strip(), os.environ.get(AUTH_TOKEN, "").strip()
    if bool(url) != bool(token):
        given, missing = (SERVER_URL, AUTH_TOKEN) if url else (AUTH_TOKEN, SERVER_URL)
        raise InputError(
            f"{given} is set and {missing} is not; to train on that cluster set both, and neither to use "
            "the pod's service account"
        )
    if url and not url.startswith("https://"):
        raise InputError(f"{SERVER_URL}={url} is not allowed; allowed: https://host[:port], since a token goes there")
    token_file = None
    if not url:
        token_file = SERVICE_ACCOUNT / "token"
        url, token = _own_server(), _read(token_file)
    configuration = client.Configuration()
    configuration.host = url.rstrip("/")
    configuration.api_key = {"authorization": token}
    configuration.api_key_prefix = {"authorization": "Bearer"}
    configuration.ssl_ca_cert = str(_certificate_authorities())
    proxies = urllib.request.getproxies()
    configuration.proxy, configuration.no_proxy = proxies.get("https"), proxies.get("no")
    # allowed_methods=None: a TrainJob's name makes creating it twice impossible, so POST is repeated as well.
    configuration.retries = Retry(
        total=4,
        backoff_factor=backoff_seconds,
        backoff_jitter=backoff_seconds,
        status_forcelist=_RETRIED_STATUS,
        allowed_methods=None,
        raise_on_status=False,
    )
    return Cluster(client.ApiClient(configuration), _namespace(), token_file)


class Cluster:
    """See connect()."""

    def __init__(self, api_client: Any, namespace: str, token_file: Path | None) -> None:
        from kubernetes import client

        self.namespace = namespace
        self._client = api_client
        self._token_file = token_file
        self._core = client.CoreV1Api(api_client)
        self._custom = client.CustomObjectsApi(api_client)

    @property
    def url(self) -> str:
        return self._client.configuration.host

    def trainer_api(self) -> dict[str, Any] | None:
        """The OpenAPI document of the Trainer's API; None where the cluster has no Trainer."""
        return self._json(
            self._client.call_api,
            f"/openapi/v3/apis/{TRAINER_GROUP}/{TRAINER_VERSION}",
            "GET",
            auth_settings=["BearerToken"],
            header_params={"Accept": "application/json"},
        )

    def create_trainjob(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates it; a field that the server does not know is an error (fieldValidation=Strict)."""
        return self._json(
            self._custom.create_namespaced_custom_object, *self._trainjobs(), body, field_validation="Strict"
        )

    def trainjob(self, name: str) -> dict[str, Any] | None:
        return self._json(self._custom.get_namespaced_custom_object, *self._trainjobs(), name)

    def delete_trainjob(self, name: str) -> None:
        """Asks for its deletion; it is gone (trainjob() gives None) once its pods are."""
        self._json(
            self._custom.delete_namespaced_custom_object, *self._trainjobs(), name, propagation_policy="Foreground"
        )

    def training_runtime(self, name: str) -> dict[str, Any] | None:
        """The namespace's own runtime of that name."""
        return self._json(
            self._custom.get_namespaced_custom_object,
            TRAINER_GROUP,
            TRAINER_VERSION,
            self.namespace,
            "trainingruntimes",
            name,
        )

    def runtime_names(self) -> list[str]:
        """The runtimes that this token may see, the namespace's and the cluster's; those it may not see are left
        out."""
        names: set[str] = set()
        for listing in (
            lambda **options: self._custom.list_namespaced_custom_object(
                TRAINER_GROUP, TRAINER_VERSION, self.namespace, "trainingruntimes", **options
            ),
            lambda **options: self._custom.list_cluster_custom_object(
                TRAINER_GROUP, TRAINER_VERSION, "clustertrainingruntimes", **options
            ),
        ):
            try:
                found = self._json(listing) or {}
            except Forbidden:
                continue
            names.update(item["metadata"]["name"] for item in found.get("items", []))
        return sorted(names)

    def pod(self, name: str) -> dict[str, Any] | None:
        return self._json(self._core.read_namespaced_pod, name, self.namespace)

    def pods(self, label_selector: str) -> list[dict[str, Any]]:
        found = self._json(self._core.list_namespaced_pod, self.namespace, label_selector=label_selector)
        return (found or {}).get("items", [])

    def events(self, object_name: str) -> list[dict[str, Any]]:
        """The events about the objects of that name, the oldest first; none where the token may not see them."""
        try:
            found = self._json(
                self._core.list_namespaced_event, self.namespace, field_selector=f"involvedObject.name={object_name}"
            )
        except Forbidden:
            return []
        return sorted(
            (found or {}).get("items", []), key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or ""
        )

    def access_modes(self, claim: str) -> list[str] | None:
        """The access modes of a PersistentVolumeClaim; None where it is not there, or the token may not see it."""
        try:
            found = self._json(self._core.read_namespaced_persistent_volume_claim, claim, self.namespace)
        except Forbidden:
            return None
        return found["spec"].get("accessModes", []) if found else None

    def create_secret(self, body: Mapping[str, Any], dry_run: bool = False) -> None:
        """Creates it, or only sees whether it could be."""
        self._json(self._core.create_namespaced_secret, self.namespace, body, **{"dry_run": "All"} if dry_run else {})

    def pod_log(self, pod: str, container: str, **options: Any) -> Iterator[bytes]:
        """The log of a container in pieces as they come, each line with its timestamp.

        Args:
            options: of CoreV1Api.read_namespaced_pod_log: follow, since_seconds, previous, tail_lines.
        """
        with _translated():
            response = self._with_new_token(
                self._core.read_namespaced_pod_log,
                pod,
                self.namespace,
                container=container,
                timestamps=True,
                _preload_content=False,
                _request_timeout=_LOG_TIMEOUT_SECONDS,
                **options,
            )
            try:
                yield from response.stream(8192)
            finally:
                # Closes the connection: what is left of a log that is followed has no end.
                response.close()

    def _trainjobs(self) -> tuple[str, str, str, str]:
        return TRAINER_GROUP, TRAINER_VERSION, self.namespace, "trainjobs"

    def _json(self, request: Callable, *args: Any, **options: Any) -> dict[str, Any] | None:
        """The answer's JSON; None for 404."""
        with _translated():
            try:
                answer = self._with_new_token(
                    request, *args, _preload_content=False, _request_timeout=_TIMEOUT_SECONDS, **options
                )
            except Exception as error:
                if getattr(error, "status", None) == 404:
                    return None
                raise
            # call_api answers with status and headers too.
            response = answer[0] if isinstance(answer, tuple) else answer
            try:
                return json.loads(response.data)
            except ValueError:
                raise ClusterUnavailable(f"{self.url} answers with something that is no JSON") from None

    def _with_new_token(self, request: Callable, *args: Any, **options: Any) -> Any:
        """Sends a request; where the token is not accepted, once more with the token file's present content, since
        Kubernetes replaces the tokens that it mounts."""
        from kubernetes.client import ApiException

        try:
            return request(*args, **options)
        except ApiException as error:
            if error.status != 401 or self._token_file is None:
                raise
            self._client.configuration.api_key["authorization"] = _read(self._token_file)
            return request(*args, **options)


def _own_server() -> str:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (SERVICE_ACCOUNT / "token").is_file():
        raise InputError(f"there is no cluster: neither {SERVER_URL} and {AUTH_TOKEN} nor a service account is here")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _namespace() -> str:
    namespace = os.environ.get(NAMESPACE, "").strip()
    if namespace:
        return namespace
    if (SERVICE_ACCOUNT / "namespace").is_file():
        return _read(SERVICE_ACCOUNT / "namespace")
    raise InputError(
        f"the namespace for the TrainJob is not known: this is no pod with a service account; set the "
        f"environment variable {NAMESPACE} beside {SERVER_URL}"
    )


def _certificate_authorities() -> Path:
    """The certificate authorities of the system and, in a pod, of the cluster, in one file as the client wants it."""
    system = ssl.get_default_verify_paths().cafile
    if not system:
        import certifi

        system = certifi.where()
    mounted = SERVICE_ACCOUNT / "ca.crt"
    if not mounted.is_file():
        return Path(system)
    bundle = Path(tempfile.mkdtemp(prefix="kfp-osft-")) / "ca.crt"
    bundle.write_text(f"{_read(Path(system))}\n{_read(mounted)}\n", encoding="utf-8")
    return bundle


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()


@contextmanager
def _translated() -> Iterator[None]:
    """Turns the client's exceptions into ours, without the headers and bodies that it puts into its messages."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise _meaning(error) from None
    except (HTTPError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ClusterUnavailable(f"the cluster's API server does not answer: {reason}") from None


def _meaning(error: Any) -> Exception:
    try:
        sentence = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        sentence = error.reason or "no reason given"
    if error.status == 401:
        return Forbidden(
            f"the cluster does not accept the token (401): it is wrong or has expired; with {SERVER_URL}, "
            f"{AUTH_TOKEN} needs a new one"
        )
    if error.status == 403 and "is forbidden: User" in sentence:
        return Forbidden(f"the cluster does not allow it: {sentence}; the README has the Role to apply")
    if error.status in _RETRIED_STATUS:
        return ClusterUnavailable(f"the cluster's API server answers {error.status}: {sentence}")
    return Refused(f"the cluster refuses it ({error.status}): {sentence}", error.status)
