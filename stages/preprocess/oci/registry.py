"""An OCI registry: references to it, the credentials for it, and skopeo, which talks to it.

skopeo is in the stages' image, as it is what today's component pulls with; on a person's computer it comes from the
system's packages. It knows the registries' ways of authentication, verifies TLS and each digest while it pulls, and
pulls several layers at once.
"""

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kfp_osft.shared.network.certificates import REMEDY
from kfp_osft.shared.network.retry import Backoff
from kfp_osft.shared.processes.process_tree import start_watchdog
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.progress import Progress

SCHEME = "oci://"
#: Holds the content of a Docker config.json.
SECRET_VARIABLE = "OCI_PULL_SECRET_MODEL_DOWNLOAD"

_PARAMETER = "training_base_model"
_SECRET_NAME = "oci-pull-secret-model-download"
_ATTEMPTS = 4
_FIRST_PAUSE = 2.0
_SECONDS_TO_ANSWER = 120
_SECONDS_WITHOUT_A_BYTE = 300
_PLATFORM = ("linux", "amd64")
# The grammar of github.com/distribution/reference, with a registry that must be named.
_REFERENCE = re.compile(
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::\d+)?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
# skopeo's own, its storage's, and those of every client; the others, secrets among them, are nothing to it.
_NEEDED_VARIABLES = re.compile(
    r"PATH|HOME|USER|TMPDIR|XDG_.*|REGISTR(Y|IES)_.*|DOCKER_.*|CONTAINERS_.*|SSL_CERT_(FILE|DIR)|"
    r"(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|LANG|LC_.*"
)
_LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.IGNORECASE)
_DOCKER_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}

_Result = TypeVar("_Result")


class Reference(NamedTuple):
    """What an oci:// URI names; the digest wins where a tag is given too."""

    host: str
    repository: str
    tag: str
    digest: str | None

    @property
    def name(self) -> str:
        """The last part of the repository."""
        return self.repository.rpartition("/")[2]

    def at(self, digest: str | None) -> str:
        """As skopeo takes it: at a digest, or at the tag."""
        return f"docker://{self.host}/{self.repository}" + (f"@{digest}" if digest else f":{self.tag}")


class _Failure(Exception):
    """What skopeo failed with; `passing`: another try may succeed."""

    def __init__(self, message: str, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


def parse_reference(base_model: str) -> Reference:
    """Reads oci://registry/repository[:tag][@sha256:digest]; the tag is `latest` where neither is given.

    Raises:
        InputError: the text is no such reference.
    """
    match = _REFERENCE.fullmatch(base_model.removeprefix(SCHEME))
    # As Docker tells a registry from the first part of a repository.
    if not match or not (set(".:") & set(match["host"]) or match["host"] == "localhost"):
        shown = re.sub(r"//[^/]*:[^/]*@", "//***@", base_model)
        raise InputError(
            f"{_PARAMETER}={shown} is not allowed; allowed: oci://registry/repository:tag or "
            "oci://registry/repository@sha256:<64 hex digits>, the repository in lower case"
        )
    return Reference(match["host"], match["repository"], match["tag"] or "latest", match["digest"])


def docker_auths(config: str) -> dict[str, dict[str, str]]:
    """The credentials in the content of a Docker config.json, by registry or registry/path.

    All of Docker's ways to write them become the two that skopeo reads: auth, and auth with identitytoken.

    Raises:
        InputError: it is none; nothing of it is shown.
    """
    try:
        content = json.loads(config)
    except ValueError:
        raise _malformed("it is not JSON") from None
    auths = content.get("auths", {}) if isinstance(content, dict) else None
    if not isinstance(auths, dict):
        raise _malformed("it is not an object with an object 'auths'")
    has_helpers = content.get("credsStore") or content.get("credHelpers")
    if "auths" not in content and not has_helpers:
        raise _malformed("it has no 'auths'")
    found = {}
    for number, (key, entry) in enumerate(auths.items(), start=1):
        if not isinstance(entry, dict):
            raise _malformed(f"entry {number} of 'auths' is not an object")
        values = [entry.get(name) or "" for name in ("auth", "username", "password", "identitytoken")]
        if not all(isinstance(value, str) for value in values):
            raise _malformed(f"a value in entry {number} of 'auths' is not a text")
        auth, username, password, identity_token = values
        if auth:
            try:
                readable = ":" in base64.b64decode(auth, validate=True).decode()
            except (binascii.Error, ValueError):
                readable = False
            if not readable:
                raise _malformed(f"'auth' in entry {number} of 'auths' is not user:password in base64")
        elif username or identity_token:
            # <token> is the name that Docker gives to nobody.
            auth = base64.b64encode(f"{username or '<token>'}:{password}".encode()).decode()
        else:
            # What `docker login` leaves where a helper program has the credentials.
            continue
        # https://registry/v1/ is how Docker writes a registry.
        registry = re.sub(r"^https?://|(/v[12])?/*$", "", key.strip())
        found[registry] = {"auth": auth} | ({"identitytoken": identity_token} if identity_token else {})
    if has_helpers and not found:
        raise _malformed(
            "it leaves the credentials to a helper program (credsStore, credHelpers), which a stage does "
            "not have; give them in 'auths'"
        )
    return found


def _malformed(problem: str) -> InputError:
    return InputError(
        f"{SECRET_VARIABLE} (of the Secret {_SECRET_NAME}) is not the content of a Docker config.json: {problem}"
    )


class Registry:
    """The registry of one image or artifact, through skopeo.

    Each method raises InputError where what it is asked for is not there, cannot be had, or is not what it must be.
    """

    def __init__(self, base_model: str, config: str | None) -> None:
        """config: content of a Docker config.json; without one, skopeo's own logins count.

        Raises:
            InputError: base_model is no oci:// reference, or that content is malformed.
        """
        self.reference = parse_reference(base_model)
        self._base_model = base_model
        self._auths = docker_auths(config) if config and config.strip() else None
        self._manifests: dict[str, bytes] = {}

    def digest(self) -> str:
        """The digest that the reference has, or that its tag stands for now."""
        return self.reference.digest or self._fetch_manifest(None)

    def image(self, digest: str) -> tuple[str, dict[str, Any]]:
        """The manifest at the digest, with that digest; of an image index, one of its images.

        Of several platforms it is linux/amd64: the files of a model are the same in all.
        """
        content = self._manifest(digest)
        if "manifests" in content:
            digest = self._chosen(content)
            content = self._manifest(digest)
        try:
            sizes = {layer["digest"]: layer["size"] for layer in content["layers"]}
            is_manifest = all(
                re.fullmatch(r"sha256:[0-9a-f]{64}", layer) and size >= 0 for layer, size in sizes.items()
            )
        except (LookupError, TypeError):
            is_manifest = False
        if not is_manifest:
            raise self._not_an_image()
        return digest, content

    def _chosen(self, index: dict[str, Any]) -> str:
        try:
            platforms = {image["digest"]: image.get("platform") or {} for image in index["manifests"]}
            # A proof of where an image comes from is put beside it, for no platform.
            images = {
                digest: (platform.get("os"), platform.get("architecture"))
                for digest, platform in platforms.items()
                if platform.get("os") != "unknown"
            }
        except (LookupError, TypeError, AttributeError):
            raise self._not_an_image() from None
        for digest, platform in images.items():
            if platform == _PLATFORM or len(images) == 1:
                return digest
        listed = ", ".join("/".join(map(str, platform)) for platform in images.values()) or "nothing"
        raise self._error(f"is an index without an image for {'/'.join(_PLATFORM)}; it has {listed}")

    def _not_an_image(self) -> InputError:
        return self._error("is neither an OCI image or artifact nor an index of such")

    def _manifest(self, digest: str) -> dict[str, Any]:
        if digest not in self._manifests and self._fetch_manifest(digest) != digest:
            raise self._error("the registry gave a manifest that has another digest")
        try:
            content = json.loads(self._manifests[digest])
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise self._not_an_image()
        return content

    def _fetch_manifest(self, digest: str | None) -> str:
        """Fetches what is at the digest, or at the tag, and returns the digest that it has."""

        def fetch() -> bytes:
            with self._command("inspect", "--raw", self._tls("--tls-verify"), self.reference.at(digest)) as (
                command,
                options,
            ):
                try:
                    done = subprocess.run(command, capture_output=True, timeout=_SECONDS_TO_ANSWER, **options)
                except subprocess.TimeoutExpired:
                    raise _Failure(f"the registry did not answer within {_SECONDS_TO_ANSWER} s", True) from None
            if done.returncode:
                raise self._failure(done.stderr)
            return done.stdout

        raw = self._with_retries(fetch, lambda: 0)
        found = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self._manifests[found] = raw
        return found

    def copy(self, digest: str, folder: Path, size: int) -> None:
        """Pulls all layers of the image or artifact into folder/blobs/sha256; those that lie there are not pulled.

        Args:
            digest: of its manifest.
            folder: becomes an OCI image layout. A blob gets its name there only once its digest is verified.
            size: bytes of all layers, for the progress.
        """

        def fetch() -> None:
            # Unfinished ones of a process that was killed.
            for leftover in folder.glob("oci-put-blob*"):
                leftover.unlink()
            # The layers as they are: a file that is no tar would be compressed otherwise.
            with (
                self._command(
                    "copy",
                    "--quiet",
                    self._tls("--src-tls-verify"),
                    "--dest-oci-accept-uncompressed-layers",
                    self.reference.at(digest),
                    f"oci:{folder.name}:model",
                ) as (command, options),
                tempfile.TemporaryFile() as errors,
            ):
                # A process group of its own is what the watchdog ends.
                # A relative path: in oci:PATH:NAME the path may hold no colon.
                process = subprocess.Popen(
                    command, cwd=folder.parent, stdout=errors, stderr=errors, start_new_session=True, **options
                )
                watchdog = start_watchdog(process.pid)
                watch = _watcher(folder, size)
                try:
                    while process.poll() is None:
                        with contextlib.suppress(subprocess.TimeoutExpired):
                            process.wait(1)
                        watch()
                finally:
                    process.kill()
                    process.wait()
                    watchdog.kill()
                    watchdog.wait()
                errors.seek(0)
                if process.returncode:
                    raise self._failure(errors.read())

        self._with_retries(fetch, lambda: size_of(folder / "blobs"))

    @contextlib.contextmanager
    def _command(self, *arguments: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """skopeo's command line, and the options of subprocess for it."""
        skopeo = shutil.which("skopeo")
        if skopeo is None:
            raise self._error(
                "oci:// models are pulled with skopeo, which is not installed here; give the stages an "
                "image that has it, or install it on your computer (apt, dnf and brew have a package "
                "skopeo)"
            )
        environment = {key: value for key, value in os.environ.items() if _NEEDED_VARIABLES.fullmatch(key)}
        options = {"stdin": subprocess.DEVNULL, "env": environment}
        if self._auths is None:
            yield [skopeo, *arguments], options
            return
        with _secret_file(json.dumps({"auths": self._auths}).encode()) as (path, descriptors):
            yield [skopeo, *arguments, f"--authfile={path}"], options | {"pass_fds": descriptors}

    def _tls(self, option: str) -> str:
        """Plain HTTP, or a certificate of nobody, only on this computer, as Docker has it."""
        return f"{option}={'false' if _LOOPBACK.fullmatch(self.reference.host) else 'true'}"

    def _with_retries(self, fetch: Callable[[], _Result], pulled: Callable[[], int]) -> _Result:
        """Tries again after what may pass, with growing pauses; the count starts anew when a try got further."""
        backoff, before = Backoff(_ATTEMPTS, _FIRST_PAUSE), pulled()
        while True:
            try:
                return fetch()
            except _Failure as failure:
                now = pulled()
                pause, before = backoff.pause(got_further=now > before), now
                if not failure.passing or pause is None:
                    raise self._error(str(failure)) from None
                log(f"{self._base_model}: {failure}; trying again in {pause:g} s")
                time.sleep(pause)

    def _error(self, message: str) -> InputError:
        return InputError(f"{_PARAMETER}={self._base_model}: {message}")

    def _failure(self, errors: bytes) -> _Failure:
        """What skopeo's output means, in our words and its own."""
        text = errors.decode(errors="replace").strip()
        quoted = re.findall(r'level=fatal msg="((?:[^"\\]|\\.)*)"', text)
        said = re.sub(r"\\(.)", r"\1", quoted[-1]) if quoted else (text.splitlines() or ["nothing"])[-1]
        # A redirect to a storage is signed in its query.
        said = re.sub(r"\?[^\s\"]+", "?***", said)
        for secret in self._secrets():
            said = said.replace(secret, "***")
        # A repository's name may be as a reason is.
        reason = said.replace(self.reference.repository, "")
        found = (rest for pattern, *rest in _MEANINGS if re.search(pattern, reason, re.IGNORECASE))
        passing, meaning = next(found, (True, "cannot be pulled"))
        return _Failure(f"{meaning or self._refused()} (skopeo: {said})", passing)

    def _refused(self) -> str:
        host = self.reference.host
        if self._auths is None:
            state = "it is not set"
        else:
            hosts = {key.partition("/")[0] for key in self._auths}
            named = host in hosts or (host in _DOCKER_HUB and hosts & _DOCKER_HUB)
            state = "its entry for it does not open it" if named else "it has no entry for that registry in 'auths'"
        return (
            f"the registry {host} refuses access. It needs credentials in {SECRET_VARIABLE} (of the Secret "
            f"{_SECRET_NAME}, the content of a Docker config.json): {state}. Some registries answer so, too, "
            "where there is no such repository"
        )

    def _secrets(self) -> list[str]:
        found = set()
        for entry in (self._auths or {}).values():
            user_and_password = base64.b64decode(entry["auth"]).decode()
            found |= {*entry.values(), user_and_password, user_and_password.partition(":")[2]}
        return sorted(filter(None, found), key=len, reverse=True)


# Pattern in what skopeo says, whether another try may succeed, and what it means (None: credentials).
_MEANINGS: Sequence[tuple[str, bool, str | None]] = (
    (r"permission denied|read-only file system", False, "the workspace cannot be written"),
    (
        r"unauthorized|authentication required|denied|forbidden|invalid username/password|status(?: code)?:? 40[13]",
        False,
        None,
    ),
    (
        r"manifest unknown|name unknown|repository name not known|not found|status(?: code)?:? 404",
        False,
        "there is no such repository, tag or digest",
    ),
    (r"x509|certificate", False, f"the registry's TLS certificate cannot be verified; {REMEDY}"),
    (r"server gave HTTP response", False, "the registry speaks plain HTTP, which is for localhost only"),
    (r"no space left|disk quota", False, "the workspace is full"),
    (
        r"digest did not match|does not match|digest mismatch",
        False,
        "what the registry gave has another digest than its manifest says",
    ),
    (r"policy\.json|signature", False, "the policy of this image or computer does not let skopeo pull it"),
    (
        r"no such host|connection refused|dial tcp|network is unreachable|no route to host|timeout",
        True,
        "the registry cannot be reached",
    ),
    (r"toomanyrequests|too many requests|status(?: code)?:? 429", True, "the registry is asked too often"),
)


def size_of(folder: Path) -> int:
    """Bytes of all files below the folder; some may go while it counts."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total


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
    # Both are for this user alone: the folder by mkdtemp, the file by its mode.
    with tempfile.TemporaryDirectory(prefix="kfp-osft-") as folder:
        path = os.path.join(folder, "auth.json")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        yield path, ()


def _watcher(folder: Path, total: int) -> Callable[[], None]:
    """To be called every second: logs the progress, and fails where nothing comes any more."""
    changed_at = time.monotonic()
    seen = size_of(folder)
    progress = Progress("Pulled", total, "bytes", seen)

    def watch() -> None:
        nonlocal changed_at, seen
        now, size = time.monotonic(), size_of(folder)
        progress.add(size - seen)
        if size != seen:
            seen, changed_at = size, now
        elif now - changed_at > _SECONDS_WITHOUT_A_BYTE:
            raise _Failure(f"no byte came for {_SECONDS_WITHOUT_A_BYTE} s", True)

    return watch
