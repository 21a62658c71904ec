"""One namespace of a Kubernetes cluster, through the official client: the few requests that a TrainJob needs.

Responses are plain dicts, as the API server sends them. A failed request raises a ClusterError; one that may succeed
later is retried until `patience` is over. An untrusted certificate is never retried.

The retry loop is ours, not urllib3's Retry: that sleeps through Retry-After without a log line, and cannot tell a
server that is still loading its RBAC rules, or a webhook that is down, from a rejection.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.reporting.log import log
from kfp_osft.stages.launch_trainjob.kubernetes.errors import Forbidden, NotFound, Refused, Unavailable, translated
from kfp_osft.stages.launch_trainjob.kubernetes.trainjob import TRAINER_GROUP, TRAINER_VERSION

# To connect, and to wait for the next bytes of a response.
_TIMEOUT_SECONDS = (10, 30)
_DELETE_TIMEOUT_SECONDS = (3, 5)
_LOG_TIMEOUT_SECONDS = (10, 120)
_LONGEST_PAUSE_SECONDS = 30
_LONGEST_BACKOFF_SECONDS = 8
# Pauses of at least this are logged.
_LONG_PAUSE_SECONDS = 10
_KUEUE_GROUP, _KUEUE_VERSIONS = "kueue.x-k8s.io", ("v1beta2", "v1beta1")


class Cluster:
    """See connection.connect().

    Attributes:
        namespace: of all objects.
        patience: seconds for which a request is retried while the API server is unavailable.
        starting: seconds for which a denial by RBAC, or an API that is not served, may come from a server that has
            just started: it answers before it has loaded its rules.
        backoff: seconds before the first retry; doubles with each further one.
    """

    def __init__(self, api_client: Any, namespace: str, token_file: Path | None) -> None:
        from kubernetes import client

        self.namespace = namespace
        self.patience, self.starting, self.backoff = 60.0, 3.0, 0.5
        self._client = api_client
        self._token_file = token_file
        self._core = client.CoreV1Api(api_client)
        self._custom = client.CustomObjectsApi(api_client)

    @property
    def url(self) -> str:
        return self._client.configuration.host

    def trainer_api(self) -> dict[str, Any] | None:
        """The OpenAPI document of the Trainer's API; None where the cluster has no Trainer."""
        try:
            return self._ask(
                self._client.call_api,
                f"/openapi/v3/apis/{TRAINER_GROUP}/{TRAINER_VERSION}",
                "GET",
                auth_settings=["BearerToken"],
                header_params={"Accept": "application/json"},
                may_be_missing=True,
            )
        except Unavailable as error:
            if not error.not_served:
                raise
            return None

    def create_trainjob(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates it; an unknown field is an error (fieldValidation=Strict)."""
        return self._ask(
            self._custom.create_namespaced_custom_object, *self._trainjobs(), body, field_validation="Strict"
        )

    def trainjob(self, name: str) -> dict[str, Any] | None:
        return self._found(self._custom.get_namespaced_custom_object, *self._trainjobs(), name)

    def delete_trainjob(self, name: str, uid: str = "") -> bool:
        """Requests its deletion once; its pods are deleted later. False: it does not exist, or has another uid.

        In the background: while a TrainJob being deleted in the foreground still exists, Trainer recreates its JobSet
        and pods each time the garbage collector removes them.
        """
        body = {"preconditions": {"uid": uid}} if uid else {}
        try:
            with translated(self.url):
                self._with_new_token(
                    self._custom.delete_namespaced_custom_object,
                    *self._trainjobs(),
                    name,
                    propagation_policy="Background",
                    body=body,
                    _preload_content=False,
                    _request_timeout=_DELETE_TIMEOUT_SECONDS,
                )
        except NotFound:
            return False
        except Unavailable as error:
            if uid and "recondition" in str(error):
                return False
            raise
        return True

    def training_runtime(self, name: str) -> dict[str, Any] | None:
        """The TrainingRuntime of that name in the namespace; None if there is none, or the token may not read it."""
        try:
            return self._found(
                self._custom.get_namespaced_custom_object,
                TRAINER_GROUP,
                TRAINER_VERSION,
                self.namespace,
                "trainingruntimes",
                name,
                optional=True,
            )
        except Forbidden:
            return None

    def runtime_names(self) -> tuple[list[str] | None, list[str] | None]:
        """The runtimes of the namespace, and those of the cluster; None for what the token may not list."""
        return (
            self._names(
                self._custom.list_namespaced_custom_object,
                TRAINER_GROUP,
                TRAINER_VERSION,
                self.namespace,
                "trainingruntimes",
            ),
            self._names(
                self._custom.list_cluster_custom_object, TRAINER_GROUP, TRAINER_VERSION, "clustertrainingruntimes"
            ),
        )

    def pod(self, name: str) -> dict[str, Any] | None:
        return self._found(self._core.read_namespaced_pod, name, self.namespace)

    def pods(self, label_selector: str) -> list[dict[str, Any]]:
        return self._ask(self._core.list_namespaced_pod, self.namespace, label_selector=label_selector)["items"]

    def events(self, **involved: str) -> list[dict[str, Any]]:
        """The events about the objects with these fields (name, kind, uid); none if the token may not list them."""
        selector = ",".join(f"involvedObject.{field}={value}" for field, value in involved.items())
        try:
            return self._ask(self._core.list_namespaced_event, self.namespace, field_selector=selector, optional=True)[
                "items"
            ]
        except Forbidden:
            return []

    def workloads(self) -> list[dict[str, Any]] | None:
        """Kueue's Workloads of the namespace; None if there is no Kueue, or the token may not list them."""
        for version in _KUEUE_VERSIONS:
            try:
                return self._ask(
                    self._custom.list_namespaced_custom_object,
                    _KUEUE_GROUP,
                    version,
                    self.namespace,
                    "workloads",
                    optional=True,
                )["items"]
            except Forbidden:
                return None
            except Unavailable as error:
                if not error.not_served:
                    raise
        return None

    def access_modes(self, claim: str) -> list[str] | None:
        """The access modes of a PersistentVolumeClaim; None if it does not exist, or the token may not read it."""
        try:
            found = self._found(
                self._core.read_namespaced_persistent_volume_claim, claim, self.namespace, optional=True
            )
        except Forbidden:
            return None
        return found["spec"].get("accessModes", []) if found else None

    def create_secret(self, body: Mapping[str, Any], dry_run: bool = False) -> None:
        """Creates it, or with dry_run checks whether that is allowed. One that already exists is not an error: a
        request whose response was lost is retried, and nobody else uses its name."""
        try:
            # The client leaves out a query parameter that is None.
            self._ask(self._core.create_namespaced_secret, self.namespace, body, dry_run="All" if dry_run else None)
        except Refused as error:
            if error.status != 409:
                raise

    def pod_log(self, pod: str, container: str, **options: Any) -> Iterator[bytes]:
        """The log of a container in chunks as they arrive, each line with its timestamp.

        Args:
            options: of CoreV1Api.read_namespaced_pod_log: follow, since_seconds, previous, tail_lines.
        """
        with translated(self.url):
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
                yield from response.stream(65536)
            finally:
                # Closes the connection: a followed log would never be read to its end.
                response.close()

    def _trainjobs(self) -> tuple[str, str, str, str]:
        return TRAINER_GROUP, TRAINER_VERSION, self.namespace, "trainjobs"

    def _names(self, listing: Callable, *args: Any) -> list[str] | None:
        try:
            return sorted(item["metadata"]["name"] for item in self._ask(listing, *args, optional=True)["items"])
        except Forbidden:
            return None

    def _found(self, request: Callable, *args: Any, **options: Any) -> dict[str, Any] | None:
        """The response, or None if the object does not exist."""
        try:
            return self._ask(request, *args, **options)
        except NotFound:
            return None

    def _ask(
        self,
        request: Callable,
        *args: Any,
        optional: bool = False,
        may_be_missing: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """The response's JSON; retries the request while that may help. Raises ClusterError.

        Args:
            optional: the right may well be missing: a denial is not retried.
            may_be_missing: the API may well not be installed: a 404 is retried only until the server must have started.
        """
        began, pause, logged = time.monotonic(), self.backoff, False
        while True:
            try:
                with translated(self.url):
                    return self._answer(request, *args, **options)
            except Forbidden:
                if optional or time.monotonic() - began >= self.starting:
                    raise
                wished = 0.0
            except Unavailable as error:
                missing = error.not_served and (optional or may_be_missing)
                limit = self.patience if not missing else 0 if optional else self.starting
                if time.monotonic() - began >= limit:
                    raise
                wished = min(error.retry_after, _LONGEST_PAUSE_SECONDS)
                if wished > _LONG_PAUSE_SECONDS:
                    log(f"{error}; it asks to wait {error.retry_after:.0f} s: retrying in {wished:.0f} s")
                elif not logged and time.monotonic() - began > _LONG_PAUSE_SECONDS:
                    logged = True
                    log(f"{error}; retrying for {limit:.0f} s")
            # Jitter: launchers that failed together should not retry together.
            time.sleep(max(pause * random.uniform(1, 1.5), wished))
            pause = min(2 * pause, _LONGEST_BACKOFF_SECONDS)

    def _answer(self, request: Callable, *args: Any, **options: Any) -> dict[str, Any]:
        answer = self._with_new_token(
            request, *args, _preload_content=False, _request_timeout=_TIMEOUT_SECONDS, **options
        )
        # call_api returns status and headers too.
        response = answer[0] if isinstance(answer, tuple) else answer
        try:
            return json.loads(response.data)
        except (ValueError, RecursionError):
            raise Unavailable(f"{self.url} sent a response that is not JSON") from None

    def _with_new_token(self, request: Callable, *args: Any, **options: Any) -> Any:
        """Sends a request; if the token is not accepted, once more with the token file's current content, since
        Kubernetes rotates the tokens that it mounts."""
        from kubernetes.client import ApiException

        try:
            return request(*args, **options)
        except ApiException as error:
            if error.status != 401 or self._token_file is None:
                raise
            self._client.configuration.api_key["authorization"] = self._token_file.read_text(encoding="utf-8").strip()
            return request(*args, **options)
