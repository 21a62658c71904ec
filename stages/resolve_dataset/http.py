"""Datasets behind an http(s) URL: one file; a download that was cut off resumes."""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from kfp_osft.shared.files.downloads import (
    MANIFEST,
    PartialDownload,
    check_room,
    partial_download,
)
from kfp_osft.shared.files.manifests import file_digest, fingerprint, read_manifest
from kfp_osft.shared.network.errors import is_lasting, network_cause
from kfp_osft.shared.network.retry import Backoff
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.progress import Progress
from kfp_osft.shared.reporting.redaction import redacted
from kfp_osft.shared.reporting.sizes import size_text
from kfp_osft.stages.resolve_dataset.served_file import ServedFile, served_file, status_of

#: Environment variable: the most that is fetched from a URL, in GiB.
LIMIT_VARIABLE = "OSFT_MAX_DOWNLOAD_GIB"
_DEFAULT_LIMIT_GIB = 50
_TRIES, _FIRST_PAUSE = 5, 1.0
_SECONDS_TO_CONNECT, _SECONDS_TO_READ = 10, 60
# Also with redirects, whose headers and bodies may come a byte at a time.
_SECONDS_TO_ANSWER = 120
# Of the body: less is no download, but a server that never ends.
_SLOWEST, _SECONDS_OF_SLOWNESS = 1024, 120
_MOST_REDIRECTS = 10
_MOST_CHANGES = 3
_PIECE = 1 << 20
_BYTES_BETWEEN_MARKS = 64 << 20
# Parameters that sign a link or let somebody in: they differ from link to link to the same file, or are secrets.
_SIGNING = re.compile(
    r"x-(amz|goog|oss|cos)-.*|.*(signature|token|secret|passw|credential|auth|api_?key|accesskeyid|accessid).*|"
    # CloudFront and Azure
    r"expires|policy|key-pair-id|s[veptri]|ss|srt|spr|sip|sig|sk[a-z]{1,3}",
    re.IGNORECASE,
)


class _Source(NamedTuple):
    """Where the file comes from.

    Attributes:
        session: of requests.
        url: as the person gave it.
        said: how messages begin.
        limit: the most bytes that are fetched.
    """

    session: Any
    url: str
    said: str
    limit: int


class _ChangedMeanwhile(Exception):
    pass


class _Cut(Exception):
    """The body ended early; holds what the HTTP client said."""


def fetch_from_http(uri: str, workspace: Path) -> Path:
    """Downloads a file to workspace/datasets, once for the same ETag or time of change.

    A server that gives neither is asked for the file each time.

    Raises:
        InputError: nothing there, no data file, no access, no answer, larger than OSFT_MAX_DOWNLOAD_GIB, no room.
    """
    import requests

    said = f"dataset_uri={redacted(uri)}"
    limit = _limit()
    with requests.Session() as session:
        session.max_redirects = _MOST_REDIRECTS
        session.headers.update({"User-Agent": "kfp-osft", "Accept-Encoding": "identity"})
        source = _Source(session, uri, said, limit)
        for _ in range(_MOST_CHANGES):
            with closing(_get(source)) as response:
                version = served_file(uri, said, response)
                _check_size(source, version.size)
                try:
                    return _fetch(source, response, version, workspace)
                except _ChangedMeanwhile:
                    log(f"{said}: changed during the download; starting again")
    raise InputError(f"{said}: changed {_MOST_CHANGES} times during the download")


def _limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "").strip() or str(_DEFAULT_LIMIT_GIB)
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1 << 30:
        raise InputError(f"{LIMIT_VARIABLE}={text} in the environment is not allowed; allowed: GiB as a number above 0")
    return int(limit * (1 << 30))


def _check_size(source: _Source, size: int | None) -> None:
    if size is not None and size > source.limit:
        raise InputError(
            f"{source.said}: has {size_text(size)}, more than {LIMIT_VARIABLE} allows ({size_text(source.limit)}); "
            f"set {LIMIT_VARIABLE} higher in the environment of resolve_dataset"
        )


def _get(source: _Source, headers: Mapping[str, str] | None = None) -> Any:
    """Sends the request, again after an error that may pass; returns an answer that is a success, or a 416."""
    import requests

    session, url, said, _ = source
    backoff = Backoff(_TRIES, _FIRST_PAUSE)
    while True:
        wanted = ""
        try:
            response = _answer(session, url, headers)
        except requests.TooManyRedirects:
            raise InputError(f"{said}: is redirected more than {_MOST_REDIRECTS} times") from None
        except requests.exceptions.InvalidSchema:
            raise InputError(f"{said}: is redirected to a URL that is not http(s)://") from None
        # requests.RequestException's kin for URLs are ValueErrors, and so is what urllib.parse raises.
        except ValueError:
            raise InputError(f"{said}: is not a URL") from None
        except (requests.RequestException, TimeoutError) as error:
            problem = f"cannot be reached: {network_cause(error)}"
            if is_lasting(error):
                raise InputError(f"{said}: {problem}") from None
        else:
            if response.status_code < 400 or response.status_code == 416:
                return response
            response.close()
            problem, wanted = f"the server answers {status_of(response)}", response.headers.get("Retry-After", "")
            if response.status_code < 500 and response.status_code != 429:
                raise InputError(f"{said}: {_refusal(response)}") from None
        pause = backoff.pause(wanted=float(wanted) if wanted.isdecimal() else 0.0)
        if pause is None:
            raise InputError(f"{said}: {problem} (tried {_TRIES} times)")
        time.sleep(pause)


def _answer(session: Any, url: str, headers: Mapping[str, str] | None) -> Any:
    """The answer of session.get; its timeout is for each read alone.

    Raises:
        TimeoutError: no whole answer within _SECONDS_TO_ANSWER.
    """
    asked: Future[Any] = Future()

    def ask() -> None:
        timeout = (_SECONDS_TO_CONNECT, _SECONDS_TO_READ)
        try:
            asked.set_result(session.get(url, headers=headers, stream=True, timeout=timeout))
        except BaseException as error:
            asked.set_exception(error)

    # A daemon: nobody waits for one that never ends.
    threading.Thread(target=ask, name="http", daemon=True).start()
    return asked.result(_SECONDS_TO_ANSWER)


def _refusal(response: Any) -> str:
    if response.status_code in (401, 403, 407):
        return (
            f"the server refuses it ({status_of(response)}); a signed link may have expired; put files that need "
            "a login on S3 or the PVC"
        )
    if response.status_code in (404, 410):
        return f"there is nothing at this URL ({status_of(response)})"
    return f"the server answers {status_of(response)}"


def _fetch(source: _Source, response: Any, version: ServedFile, workspace: Path) -> Path:
    said, parts = source.said, urlsplit(source.url)
    made_from: dict[str, Any] = {
        "url": redacted(source.url),
        "query": fingerprint(
            [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not _SIGNING.fullmatch(pair[0])]
        ),
    }
    datasets = workspace / "datasets"
    if version.is_certain:
        made_from |= version._asdict()
        folder = _folder(datasets, version, made_from)
        if read_manifest(folder / MANIFEST, made_from):
            log(f"{said}: unchanged and already in the workspace")
            return folder / version.name
    # Without a version, downloads are told apart by their content.
    with partial_download(_folder(datasets, version, made_from), "resolve_dataset") as partial:
        done = partial.trusted_bytes(version.name) if version.validator and version.size else 0
        if version.size is not None:
            check_room(workspace, version.size - done, said)
        log(
            f"Downloading {said.removeprefix('dataset_uri=')}"
            + (f", {size_text(version.size)}" if version.size is not None else "")
            + (f", {size_text(done)} of it already downloaded" if done else "")
        )
        _download(source, response, version, partial, done)
        if not version.is_certain:
            made_from["sha256"] = file_digest(partial.folder / version.name)
        folder = _folder(datasets, version, made_from)
        partial.publish(folder, made_from, {"uri": made_from["url"]})
    return folder / version.name


def _folder(datasets: Path, version: ServedFile, made_from: Mapping[str, Any]) -> Path:
    return datasets / f"http-{version.name.partition('.')[0][:40]}-{fingerprint(made_from)[:12]}"


def _download(source: _Source, response: Any, version: ServedFile, partial: PartialDownload, done: int) -> None:
    """Writes the file from byte `done` on; requests the rest when the connection is cut, as long as bytes arrive."""
    said, target = source.said, partial.folder / version.name
    progress = Progress(version.name, version.size, "bytes", done)
    # This answer begins at the first byte.
    if done:
        response.close()
        response = None
    backoff = Backoff(_TRIES, _FIRST_PAUSE)
    while done != version.size:
        begin = done
        try:
            if response is None:
                response, done = _rest(source, version, done)
                progress.add(done - begin)
            with target.open("r+b" if done else "wb") as file:
                file.truncate(done)
                file.seek(done)
                slowness = _Slowness(said)
                for piece in _pieces(response):
                    slowness.add(len(piece))
                    file.write(piece)
                    if done // _BYTES_BETWEEN_MARKS != (done + len(piece)) // _BYTES_BETWEEN_MARKS:
                        file.flush()
                        partial.mark(version.name, done + len(piece))
                    done += len(piece)
                    progress.add(len(piece))
                    _check_size(source, done)
            if version.size is None:
                break
            if done > version.size:
                raise _ChangedMeanwhile
            if done < version.size:
                raise _Cut("the connection was closed")
        except _Cut as cut:
            pause = backoff.pause(got_further=done > begin)
            if pause is None:
                raise InputError(f"{said}: was cut off at {size_text(done)} {_TRIES} times: {cut}") from None
            log(f"{said}: cut off at {size_text(done)} ({cut}); resuming")
            time.sleep(pause)
        finally:
            if response is not None:
                response.close()
            response = None
    partial.mark(version.name, done)


def _rest(source: _Source, version: ServedFile, done: int) -> tuple[Any, int]:
    """Asks for the bytes from `done` on; returns the answer and the byte that it begins at."""
    is_part = bool(done and version.validator)
    response = _get(source, {"Range": f"bytes={done}-", "If-Range": version.validator} if is_part else None)
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    etag = response.headers.get("ETag", "")
    if is_part and response.status_code == 206 and found and int(found[1]) == done and etag in ("", version.etag):
        return response, done
    # The whole file: the server knows no ranges, or has another version now.
    if response.status_code == 200 and served_file(source.url, source.said, response)[1:] == version[1:]:
        return response, 0
    response.close()
    raise _ChangedMeanwhile


def _pieces(response: Any) -> Iterator[bytes]:
    """The body as it is sent, in pieces.

    Raises:
        _Cut: it ended before its end.
    """
    # What has come, not all of a piece: for that a slow server would be waited for without an end.
    read = getattr(response.raw, "read1", response.raw.read)
    while True:
        with _explaining_a_cut():
            piece = read(_PIECE, decode_content=False)
        if not piece:
            return
        yield piece


class _Slowness:
    """Ends a download that gets less than _SLOWEST bytes a second for _SECONDS_OF_SLOWNESS."""

    def __init__(self, said: str) -> None:
        self._said, self._since, self._bytes = said, time.monotonic(), 0

    def add(self, size: int) -> None:
        self._bytes += size
        seconds = time.monotonic() - self._since
        if seconds < _SECONDS_OF_SLOWNESS:
            return
        if self._bytes < _SLOWEST * seconds:
            raise InputError(
                f"{self._said}: the server sends less than {size_text(_SLOWEST)} a second ({size_text(self._bytes)} in "
                f"{duration_text(seconds)})"
            )
        self._since, self._bytes = time.monotonic(), 0


@contextmanager
def _explaining_a_cut() -> Iterator[None]:
    import urllib3

    try:
        yield
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _Cut(network_cause(error)) from None
