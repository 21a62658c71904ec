"""An OCI registry: references to it, and skopeo, which talks to it.

skopeo is in the stages' image, as it is what today's component pulls with; on a person's computer it comes from the
system's packages. It knows the registries' ways of authentication, verifies TLS and each digest, and copies several
layers at once.
"""

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
from kfp_osft.shared.oci.credentials import SECRET_VARIABLE, Credentials
from kfp_osft.shared.processes.process_tree import start_watchdog
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.progress import Progress
from kfp_osft.shared.reporting.sizes import size_text

SCHEME = "oci://"

_ATTEMPTS = 4
_FIRST_PAUSE = 2.0
_SECONDS_TO_ANSWER = 120
# Of less, a registry that sends a byte now and then would never end.
_SLOWEST, _SECONDS_OF_SLOWNESS = 1024, 300
_PLATFORM = ("linux", "amd64")
# The grammar of github.com/distribution/reference, with a registry that must be named.
_REFERENCE = re.compile(
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::\d+)?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
# Those of skopeo, of its storage, and of any network client; it needs no others, and some of them are secrets.
_NEEDED_VARIABLES = re.compile(
    r"PATH|HOME|USER|TMPDIR|XDG_.*|REGISTR(Y|IES)_.*|DOCKER_.*|CONTAINERS_.*|SSL_CERT_(FILE|DIR)|"
    r"(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|LANG|LC_.*"
)
_LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.IGNORECASE)

_Result = TypeVar("_Result")


class Reference(NamedTuple):
    """What an oci:// URI names; the digest takes precedence over the tag."""

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
    """Why skopeo failed; `passing`: another try may succeed."""

    def __init__(self, message: str, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


def parse_reference(uri: str, parameter: str) -> Reference:
    """Reads oci://registry/repository[:tag][@sha256:digest]; the tag is `latest` where neither is given.

    Raises:
        InputError: the text is not such a reference.
    """
    match = _REFERENCE.fullmatch(uri.removeprefix(SCHEME))
    # How Docker distinguishes a registry from the first part of a repository.
    if not match or not (set(".:") & set(match["host"]) or match["host"] == "localhost"):
        shown = re.sub(r"//[^/]*:[^/]*@", "//***@", uri)
        raise InputError(
            f"{parameter}={shown} is not allowed; allowed: oci://registry/repository:tag or "
            "oci://registry/repository@sha256:<64 hex digits>, the repository in lower case"
        )
    return Reference(match["host"], match["repository"], match["tag"] or "latest", match["digest"])


class Registry:
    """The registry of one image or artifact, through skopeo.

    Each method raises InputError if what it is asked for does not exist, cannot be pulled, or is not what it must be.
    """

    def __init__(self, uri: str, config: str | None, parameter: str) -> None:
        """Args: see parse_reference and Credentials; parameter: where the URI was given, for messages.

        Raises:
            InputError: uri is not an oci:// reference, or the config is malformed.
        """
        self.reference = parse_reference(uri, parameter)
        self._uri = uri
        self._said = f"{parameter}={uri}"
        self._credentials = Credentials(config)
        self._manifests: dict[str, bytes] = {}

    def digest(self) -> str:
        """The digest in the reference, or the one its tag points to now."""
        return self.reference.digest or self._fetch_manifest(None)

    def image(self, digest: str) -> tuple[str, dict[str, Any]]:
        """The manifest at the digest, with that digest; for an image index, of one of its images.

        With several platforms that is linux/amd64: the model's files are the same in all of them.
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
            # Attestations lie beside the images, with an unknown platform.
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
        raise self._error(f"the image index has no image for {'/'.join(_PLATFORM)}; it has {listed}")

    def _not_an_image(self) -> InputError:
        return self._error("not an OCI image, artifact or image index")

    def _manifest(self, digest: str) -> dict[str, Any]:
        if digest not in self._manifests and self._fetch_manifest(digest) != digest:
            raise self._error("the registry returned a manifest with a different digest")
        try:
            content = json.loads(self._manifests[digest])
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise self._not_an_image()
        return content

    def _fetch_manifest(self, digest: str | None) -> str:
        """Fetches the manifest at the digest, or at the tag, and returns its digest."""

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
        """Pulls all layers of the image or artifact into folder/blobs/sha256, except those that are there already.

        Args:
            digest: of its manifest.
            folder: becomes an OCI image layout. A blob gets its name only once its digest is verified.
            size: bytes of all layers, for progress messages.
        """

        def fetch() -> None:
            # Partial blobs of a process that was killed.
            for leftover in folder.glob("oci-put-blob*"):
                leftover.unlink()
            # Keep layers as they are: skopeo would compress a file that is not a tar.
            arguments = (self._tls("--src-tls-verify"), "--dest-oci-accept-uncompressed-layers")
            self._copy(folder, *arguments, self.reference.at(digest), f"oci:{folder.name}:model", watched=size)

        self._with_retries(fetch, lambda: size_of(folder / "blobs"))

    def push(self, layout: Path) -> None:
        """Pushes the image that an OCI layout holds under the name "model", byte for byte, to the reference's tag.

        Blobs that the registry has already are not sent again, and the manifest comes last.
        """
        arguments = ("--preserve-digests", self._tls("--dest-tls-verify"))
        self._with_retries(
            lambda: self._copy(layout, *arguments, f"oci:{layout.name}:model", self.reference.at(None)), lambda: 0
        )

    def check_push(self) -> None:
        """Sees, without asking the registry, that a push may begin.

        Raises:
            InputError: a digest instead of a tag, or skopeo is missing.
        """
        if self.reference.digest:
            raise self._error("a model is pushed to a tag, not to a digest")
        with self._command():
            pass
        if warning := self._credentials.missing(self.reference.host):
            log(f"Warning: {self._said}: {SECRET_VARIABLE}: {warning}")

    def _copy(self, folder: Path, *arguments: str, watched: int = 0) -> None:
        """skopeo copy, from or to the layout in the folder.

        Args:
            watched: bytes that are to come to the folder; 0 where it only gives.
        """
        with (
            self._command("copy", "--quiet", *arguments) as (command, options),
            tempfile.TemporaryFile() as errors,
        ):
            # A process group of its own, which the watchdog kills.
            # A relative path: in oci:PATH:NAME the path cannot contain a colon.
            process = subprocess.Popen(
                command, cwd=folder.parent, stdout=errors, stderr=errors, start_new_session=True, **options
            )
            watchdog = start_watchdog(process.pid)
            watch = _watcher(folder, watched) if watched else lambda: None
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

    @contextlib.contextmanager
    def _command(self, *arguments: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """skopeo's command line, and the options of subprocess for it."""
        skopeo = shutil.which("skopeo")
        if skopeo is None:
            raise self._error(
                "oci:// needs skopeo, which is not installed here; use a stage image that has it, "
                "or install the package skopeo on your computer (apt, dnf or brew)"
            )
        environment = {key: value for key, value in os.environ.items() if _NEEDED_VARIABLES.fullmatch(key)}
        with self._credentials.auth_file() as (path, descriptors):
            options = {"stdin": subprocess.DEVNULL, "env": environment, "pass_fds": descriptors}
            yield [skopeo, *arguments, *([f"--authfile={path}"] if path else [])], options

    def _tls(self, option: str) -> str:
        """Plain HTTP or an untrusted certificate is allowed on this computer only, as in Docker."""
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
                log(f"{self._uri}: {failure}; trying again in {pause:g} s")
                time.sleep(pause)

    def _error(self, message: str) -> InputError:
        return InputError(f"{self._said}: {message}")

    def _failure(self, errors: bytes) -> _Failure:
        """What skopeo's output means, with its own last message."""
        text = errors.decode(errors="replace").strip()
        quoted = re.findall(r'level=fatal msg="((?:[^"\\]|\\.)*)"', text)
        said = re.sub(r"\\(.)", r"\1", quoted[-1]) if quoted else (text.splitlines() or ["nothing"])[-1]
        # The query of a redirect to storage contains a signature.
        said = re.sub(r"\?[^\s\"]+", "?***", said)
        said = self._credentials.redacted(said)
        # The repository's name could match one of the patterns.
        reason = said.replace(self.reference.repository, "")
        found = (
            (passing, meaning) for pattern, passing, meaning in _MEANINGS if re.search(pattern, reason, re.IGNORECASE)
        )
        passing, meaning = next(found, (True, "cannot be copied"))
        return _Failure(f"{meaning or self._credentials.refused(self.reference.host)} (skopeo: {said})", passing)


# Pattern in skopeo's message, whether another try may succeed, and what it means (None: credentials).
_MEANINGS: Sequence[tuple[str, bool, str | None]] = (
    (r"permission denied$|read-only file system", False, "the workspace is not writable"),
    (
        r"unauthorized|authentication required|denied|forbidden|invalid username/password|status(?: code)?:? 40[13]",
        False,
        None,
    ),
    (
        r"manifest unknown|name unknown|repository name not known|not found|status(?: code)?:? 404",
        False,
        "no such repository, tag or digest",
    ),
    (r"x509|certificate", False, f"the registry's TLS certificate cannot be verified; {REMEDY}"),
    (r"server gave HTTP response", False, "the registry uses plain HTTP, which is allowed for localhost only"),
    (r"no space left|disk quota", False, "the workspace is full"),
    (
        r"digest did not match|does not match|digest mismatch",
        False,
        "the registry returned content whose digest differs from the manifest's",
    ),
    (r"policy\.json|signature", False, "skopeo's policy on this image or computer does not allow it"),
    (
        r"no such host|connection refused|dial tcp|network is unreachable|no route to host|timeout",
        True,
        "the registry cannot be reached",
    ),
    (r"toomanyrequests|too many requests|status(?: code)?:? 429", True, "the registry is rate-limiting requests"),
)


def size_of(folder: Path) -> int:
    """Bytes of all files below the folder; files may disappear meanwhile."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total


def _watcher(folder: Path, total: int) -> Callable[[], None]:
    """To be called every second: logs the progress, and fails where next to nothing comes any more."""
    looked_at = time.monotonic()
    seen = then = size_of(folder)
    progress = Progress("Pulled", total, "bytes", seen)

    def watch() -> None:
        nonlocal looked_at, seen, then
        now, size = time.monotonic(), size_of(folder)
        progress.add(size - seen)
        seen = size
        if abs(seen - then) > _SLOWEST * _SECONDS_OF_SLOWNESS:
            looked_at, then = now, seen
        elif now - looked_at > _SECONDS_OF_SLOWNESS:
            raise _Failure(f"only {size_text(abs(seen - then))} came in {_SECONDS_OF_SLOWNESS} s", True)

    return watch
