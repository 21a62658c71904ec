"""Credentials for OCI registries: the content of a Docker config.json, as skopeo reads it, and kept out of messages."""

import base64
import binascii
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from kfp_osft.shared.reporting.errors import InputError

#: Holds the content of a Docker config.json.
SECRET_VARIABLE = "OCI_PULL_SECRET_MODEL_DOWNLOAD"

_SECRET_NAME = "oci-pull-secret-model-download"
_DOCKER_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}


class Credentials:
    """What opens registries; without a config, skopeo uses the user's own logins."""

    def __init__(self, config: str | None) -> None:
        """config: content of a Docker config.json; None or blank for none.

        Raises:
            InputError: the content is malformed.
        """
        self._auths = docker_auths(config) if config and config.strip() else None

    @contextlib.contextmanager
    def auth_file(self) -> Iterator[tuple[str | None, tuple[int, ...]]]:
        """The path of a file for skopeo's --authfile, None without a config, and the descriptors it must inherit."""
        if self._auths is None:
            yield None, ()
            return
        with _secret_file(json.dumps({"auths": self._auths}).encode()) as (path, descriptors):
            yield path, descriptors

    def redacted(self, text: str) -> str:
        """The text with `***` in place of each secret."""
        found = set()
        for entry in (self._auths or {}).values():
            user_and_password = base64.b64decode(entry["auth"]).decode()
            found |= {*entry.values(), user_and_password, user_and_password.partition(":")[2]}
        # The longest first, as one may contain another.
        for secret in sorted(filter(None, found), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def missing(self, host: str) -> str | None:
        """What to say where a config has no entry for a registry; None where it has, or where there is no config."""
        hosts = {key.partition("/")[0] for key in self._auths or {}}
        if self._auths is None or host in hosts or (host in _DOCKER_HUB and hosts & _DOCKER_HUB):
            return None
        return "it has no entry for this registry in 'auths'"

    def refused(self, host: str) -> str:
        """The message for a registry that refused these credentials."""
        if self._auths is None:
            state = "it is not set"
        else:
            state = self.missing(host) or "its entry for this registry was not accepted"
        return (
            f"the registry {host} denied access. It needs credentials in {SECRET_VARIABLE} (of the Secret "
            f"{_SECRET_NAME}, the content of a Docker config.json): {state}. Some registries also answer this way "
            "when the repository does not exist"
        )


def docker_auths(config: str) -> dict[str, dict[str, str]]:
    """The credentials in the content of a Docker config.json, by registry or registry/path.

    All of Docker's ways to write them become the two that skopeo reads: auth, and auth with identitytoken.

    Raises:
        InputError: the content is malformed; the message shows nothing of it.
    """
    content = _parsed(config)
    has_helpers = content.get("credsStore") or content.get("credHelpers")
    if "auths" not in content and not has_helpers:
        raise _malformed("it has no 'auths'")
    found = {}
    for number, (key, entry) in enumerate(content.get("auths", {}).items(), start=1):
        if auth := _auth_of(entry, number):
            # https://registry/v1/ is how Docker writes a registry.
            found[re.sub(r"^https?://|(/v[12])?/*$", "", key.strip())] = auth
    if has_helpers and not found:
        raise _malformed(
            "it leaves the credentials to a helper program (credsStore, credHelpers), which a stage does "
            "not have; put them in 'auths'"
        )
    return found


def _parsed(config: str) -> dict[str, Any]:
    try:
        content = json.loads(config)
    except (ValueError, RecursionError):
        raise _malformed("it is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("auths", {}), dict):
        raise _malformed("it is not an object with an object 'auths'")
    return content


def _auth_of(entry: Any, number: int) -> dict[str, str] | None:
    """An entry of 'auths' as skopeo reads it; None for one without credentials.

    Args:
        entry: the value in 'auths'.
        number: of the entry, from 1 on; its key may be a secret in the wrong place.
    """
    if not isinstance(entry, dict):
        raise _malformed(f"entry {number} of 'auths' is not an object")
    values = [entry.get(name) or "" for name in ("auth", "username", "password", "identitytoken")]
    if not all(isinstance(value, str) for value in values):
        raise _malformed(f"a value in entry {number} of 'auths' is not a string")
    auth, username, password, identity_token = values
    if auth:
        try:
            readable = ":" in base64.b64decode(auth, validate=True).decode()
        except (binascii.Error, ValueError):
            readable = False
        if not readable:
            raise _malformed(f"'auth' in entry {number} of 'auths' is not user:password in base64")
    elif username or identity_token:
        # Docker puts <token> where there is no user name.
        auth = base64.b64encode(f"{username or '<token>'}:{password}".encode()).decode()
    else:
        # What `docker login` leaves where a helper program has the credentials.
        return None
    return {"auth": auth} | ({"identitytoken": identity_token} if identity_token else {})


def _malformed(problem: str) -> InputError:
    return InputError(
        f"{SECRET_VARIABLE} (of the Secret {_SECRET_NAME}) is not the content of a Docker config.json: {problem}"
    )


@contextlib.contextmanager
def _secret_file(content: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The path of a file for a child process, and the descriptors that it must inherit."""
    if hasattr(os, "memfd_create"):
        # In memory, and gone with the processes, however they end.
        descriptor = os.memfd_create("auth", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}", (descriptor,)
        finally:
            os.close(descriptor)
        return
    # Only this user can read them: mkdtemp makes the folder so, the mode the file.
    with tempfile.TemporaryDirectory(prefix="kfp-osft-") as folder:
        path = os.path.join(folder, "auth.json")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        yield path, ()
