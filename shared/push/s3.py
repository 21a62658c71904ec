"""Pushes a model below a prefix of S3: config.json comes last, and without it nothing takes the rest for a model."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.push.destination import WEIGHTS
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.listing import listed
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.progress import Progress
from kfp_osft.shared.s3.fetching import objects_below
from kfp_osft.shared.s3.store import PARTS_AT_ONCE, SCHEME, WRITING, Place, explained, open_store, parse_place
from kfp_osft.shared.training.run_file import RUN_FILE

_CONFIG = "config.json"
# At most 10,000 parts: files of up to 320 GB.
_PART_SIZE = 32 << 20
_MOST_NAMES_SHOWN = 3


class _Content(NamedTuple):
    """A file's size, and the MD5 digests of its parts, of which S3 makes ETags."""

    size: int
    parts: list[bytes]

    @property
    def etag(self) -> str:
        if self.size <= _PART_SIZE:
            return self.parts[0].hex()
        return f"{_md5(b''.join(self.parts)).hex()}-{len(self.parts)}"


def push_to_s3(model: Path, files: dict[str, Path], uri: str, parameter: str) -> str:
    """Uploads what is not there with the same ETag. See push_model."""
    place = parse_place(parameter, uri, WRITING)
    place = place._replace(key=place.key.rstrip("/"))
    with explained(place):
        client = open_store(place)
        contents = {name: _content(file) for name, file in files.items()}
        there = {entry.name: entry for entry in objects_below(client, place)}
        missing = [
            name
            for name, content in contents.items()
            if name not in there or (there[name].size, there[name].etag.strip('"')) != (content.size, content.etag)
        ]
        # Loaders take all the weights that they find.
        stale = [name for name in there.keys() - files.keys() if _is_weights(name)]
        if not missing and not stale:
            log(f"{place.said}: all of it is there already")
            return _uri(place)
        if RUN_FILE not in there and (stale or _CONFIG in there):
            raise InputError(
                f"{place.said}: holds a model that kfp-osft did not put there ({listed(sorted(there), 3)}); give "
                "another prefix, or remove it"
            )
        if _CONFIG in there:
            client.delete_object(Bucket=place.bucket, Key=there[_CONFIG].key)
            missing = sorted({*missing, _CONFIG})
        progress = Progress("Pushed", sum(contents[name].size for name in missing), "bytes")
        # The run file says whose it is; the weights wait until they can be told from another model's.
        for name in sorted(missing, key=lambda name: (name == _CONFIG, name != RUN_FILE)):
            if name == _CONFIG:
                for other in stale:
                    client.delete_object(Bucket=place.bucket, Key=there[other].key)
                _check_sizes(client, place, {name: contents[name].size for name in files if name != _CONFIG})
            _upload(client, place.bucket, f"{place.key}/{name}", files[name], contents[name], progress)
    return _uri(place)


def _is_weights(name: str) -> bool:
    # Not those of another model further down.
    return "/" not in name and any(fnmatch(name, pattern) for pattern in WEIGHTS)


def _uri(place: Place) -> str:
    return f"{SCHEME}{place.bucket}/{place.key}"


def _check_sizes(client: Any, place: Place, sizes: dict[str, int]) -> None:
    there = {entry.name: entry.size for entry in objects_below(client, place)}
    wrong = [name for name, size in sizes.items() if there.get(name) != size]
    if wrong:
        raise InputError(f"{place.said}: something else changes {listed(wrong, _MOST_NAMES_SHOWN)} during the push")


def _upload(client: Any, bucket: str, key: str, file: Path, content: _Content, progress: Progress) -> None:
    target = {"Bucket": bucket, "Key": key}
    if content.size <= _PART_SIZE:
        client.put_object(**target, Body=file.read_bytes())
        progress.add(content.size)
        return
    upload_id, done = _unfinished(client, target, content) or (client.create_multipart_upload(**target)["UploadId"], {})
    progress.add(sum(_PART_SIZE for number in done if number < len(content.parts)))

    def send(number: int) -> dict[str, Any]:
        if number not in done:
            part = _part(file, number)
            sent = client.upload_part(**target, UploadId=upload_id, PartNumber=number, Body=part)
            done[number] = sent["ETag"]
            progress.add(len(part))
        return {"PartNumber": number, "ETag": done[number]}

    # What was begun stays after an error, and the next push goes on with it.
    parts = _in_parallel(send, range(1, len(content.parts) + 1))
    client.complete_multipart_upload(**target, UploadId=upload_id, MultipartUpload={"Parts": parts})


def _in_parallel(send: Callable[[int], dict[str, Any]], numbers: range) -> list[dict[str, Any]]:
    pool = ThreadPoolExecutor(PARTS_AT_ONCE)
    try:
        return list(pool.map(send, numbers))
    finally:
        pool.shutdown(cancel_futures=True)


def _unfinished(client: Any, target: dict[str, str], content: _Content) -> tuple[str, dict[int, str]] | None:
    """An upload of the same file that was interrupted, and the ETags of the parts that it has."""
    from botocore.exceptions import ClientError

    try:
        uploads = client.list_multipart_uploads(Bucket=target["Bucket"], Prefix=target["Key"]).get("Uploads", ())
        for upload in uploads:
            if upload["Key"] != target["Key"]:
                continue
            pages = client.get_paginator("list_parts").paginate(**target, UploadId=upload["UploadId"])
            parts = {part["PartNumber"]: part["ETag"] for page in pages for part in page.get("Parts", ())}
            if parts and all(
                number <= len(content.parts) and etag.strip('"') == content.parts[number - 1].hex()
                for number, etag in parts.items()
            ):
                log(f"{target['Key']}: {len(parts)} of {len(content.parts)} parts are there already")
                return upload["UploadId"], parts
    except ClientError:
        # Credentials that may not list uploads may still upload.
        return None
    return None


def _content(file: Path) -> _Content:
    return _Content(file.stat().st_size, [_md5(part) for part in _parts(file)] or [_md5(b"")])


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(_PART_SIZE):
            yield part


def _part(file: Path, number: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek((number - 1) * _PART_SIZE)
        return opened.read(_PART_SIZE)


def _md5(content: bytes) -> bytes:
    # S3's ETag, no matter of security.
    return hashlib.md5(content, usedforsecurity=False).digest()
