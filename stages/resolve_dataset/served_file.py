"""What a server says of the file behind a URL, before it is downloaded."""

import re
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.formats import ALLOWED_FILES, has_data_extension


class ServedFile(NamedTuple):
    """What a server says of the file.

    Attributes:
        name: for the file here.
        size: in bytes; None where it comes in chunks.
        etag: "" where there is none.
        last_modified: "" where there is none, or an ETag, which says more.
    """

    name: str
    size: int | None
    etag: str
    last_modified: str

    @property
    def validator(self) -> str:
        """What If-Range may hold: with it a server continues with the same bytes or starts again (RFC 9110, 13.1.5)."""
        return "" if self.etag.startswith("W/") else self.etag or self.last_modified

    @property
    def is_certain(self) -> bool:
        """Whether a change of the content would show."""
        return bool(self.etag or self.last_modified)


def served_file(uri: str, said: str, response: Any) -> ServedFile:
    """Reads the answer to a request for the file.

    Args:
        uri: as the person gave it.
        said: how messages begin.
        response: of requests.

    Raises:
        InputError: no file, an empty one, one of another kind, or one whose end could not be told.
    """
    headers = response.headers
    if response.status_code != 200:
        raise InputError(f"{said}: the server answers {status_of(response)} instead of a file")
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        hint = ""
        if page := re.match(r"https?://huggingface\.co/datasets/([^/?#]+/[^/?#]+)/?$", uri):
            hint = f"; the dataset is hf://{page[1]}"
        raise InputError(f"{said}: the server answers with a web page, not with a file of rows{hint}")
    if headers.get("Content-Encoding", "identity").lower() not in ("identity", "gzip", "x-gzip", "zstd"):
        raise InputError(
            f"{said}: the server compresses it as {headers['Content-Encoding']}, although it was asked not to"
        )
    is_chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    length = headers.get("Content-Length", "")
    if not is_chunked and not length.isdecimal():
        raise InputError(
            f"{said}: the server does not say how long the file is, so a truncated download would go unnoticed; "
            "put it on S3 or the PVC"
        )
    if length == "0":
        raise InputError(f"{said}: the file is empty")
    etag = headers.get("ETag", "")
    changed = "" if etag else _settled(headers.get("Last-Modified", ""), headers.get("Date", ""))
    return ServedFile(_file_name(uri, said, response), None if is_chunked else int(length), etag, changed)


def _settled(last_modified: str, date: str) -> str:
    """The time of change, if it is over: its unit is the second, in which more may have changed."""
    try:
        age = parsedate_to_datetime(date) - parsedate_to_datetime(last_modified)
    except (ValueError, TypeError):
        return ""
    return last_modified if age.total_seconds() > 1 else ""


def _file_name(uri: str, said: str, response: Any) -> str:
    """The first name with a data extension: the server's for it, the URL's, the redirected URL's."""
    disposition = Message()
    disposition["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    paths = [disposition.get_filename() or "", unquote(urlsplit(uri).path), unquote(urlsplit(response.url).path)]
    names = [re.sub(r"[^\w.-]+", "-", PurePosixPath(path).name).lstrip(".")[-100:] for path in paths]
    found = next((name for name in names if has_data_extension(name)), None)
    if found is None and (extension := next((Path(name).suffix for name in names if Path(name).suffix), None)):
        raise InputError(f"{said}: its extension {extension} is not one of {ALLOWED_FILES}")
    # Without an extension the content decides.
    return found or next(filter(None, names), "data")


def status_of(response: Any) -> str:
    """Code and phrase."""
    return f"{response.status_code} {response.reason or ''}".strip()
