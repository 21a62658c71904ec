"""Fetches objects of S3 into the workspace, whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.downloads import MANIFEST, PartialDownload, check_room, partial_download
from kfp_osft.shared.files.manifests import fingerprint, read_manifest
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.progress import Progress
from kfp_osft.shared.reporting.redaction import redacted
from kfp_osft.shared.reporting.sizes import size_text
from kfp_osft.shared.s3.store import PARTS_AT_ONCE, Place, explained, is_aws, open_store, shown_store

_MOST_CHANGES = 3
# Bytes; S3 itself has objects of 50 TB at most.
_LARGEST = 1 << 60
_LONGEST_CAUSE = 120
_PART_SIZE = 16 << 20
_BEFORE_GET = "before-parameter-build.s3.GetObject"


class StoredObject(NamedTuple):
    """An object, and the path of its file relative to the folder that it is fetched to."""

    key: str
    size: int
    etag: str
    name: str


class _ChangedMeanwhile(Exception):
    """An object is another one than when the objects were listed."""


def objects_below(client: Any, place: Place) -> list[StoredObject]:
    """All objects below the place's key taken as a prefix; the empty ones that stand for folders are left out."""
    prefix = place.key and place.key.rstrip("/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix)
    return [
        StoredObject(entry["Key"], entry["Size"], entry["ETag"], entry["Key"].removeprefix(prefix))
        for page in pages
        for entry in page.get("Contents", ())
        if not entry["Key"].endswith("/")
    ]


def fetch_objects(
    place: Place,
    workspace: Path,
    who: str,
    choose: Callable[[Any], list[StoredObject]],
    folder_of: Callable[[str], Path],
) -> tuple[Path, list[StoredObject]]:
    """Downloads objects to a folder, unless it holds them already; what an earlier process fetched is used.

    Args:
        workspace: the folder is below it, and its disk must have room.
        who: the stage that fetches.
        choose: gives the objects, which it lists with the client that it gets.
        folder_of: gives the folder by a digest of the objects' names, sizes and ETags. It appears whole or not at all,
            with a manifest.

    Returns:
        The folder and the objects.

    Raises:
        InputError: no access, no answer, no room, no S3 store, or objects that change again and again.
    """
    with explained(place):
        client = open_store(place)
        for _ in range(_MOST_CHANGES):
            objects = _known(place, client, choose)
            made_from = {
                "s3": f"{place.bucket}/{place.key}".rstrip("/"),
                "endpoint": redacted(client.meta.endpoint_url),
                "objects": [[entry.key, entry.size, entry.etag] for entry in objects],
            }
            folder = folder_of(fingerprint(made_from)[:12])
            try:
                _fetch(client, place, objects, made_from, folder, workspace, who)
                return folder, objects
            except _ChangedMeanwhile:
                log(f"{place.said}: changed during the download; starting again")
    raise InputError(f"{place.said}: changed {_MOST_CHANGES} times during the download")


def _known(place: Place, client: Any, choose: Callable[[Any], list[StoredObject]]) -> list[StoredObject]:
    """The objects of what may be no S3 store: a login page, a proxy, a server with answers of its own."""
    try:
        objects = choose(client)
        if not all(isinstance(entry.size, int) and 0 <= entry.size < _LARGEST for entry in objects):
            raise ValueError("an object's size is out of range")
        return objects
    except InputError:
        raise
    # What botocore, and the look into its dicts, make of them.
    except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{place.said}: {shown_store(place)} answers as no S3 store does ({cause[:_LONGEST_CAUSE]})"
        ) from None


def _fetch(
    client: Any,
    place: Place,
    objects: list[StoredObject],
    made_from: Any,
    folder: Path,
    workspace: Path,
    who: str,
) -> None:
    if read_manifest(folder / MANIFEST, made_from):
        log(f"{place.said}: unchanged and already in the workspace")
        return
    with partial_download(folder, who) as partial:
        missing = [entry for entry in objects if partial.trusted_bytes(entry.name) != entry.size]
        size = sum(entry.size for entry in missing)
        check_room(workspace, size, place.said)
        log(f"Downloading {len(missing)} of {len(objects)} objects, {size_text(size)}")
        _download(client, place, missing, partial)
        partial.publish(folder, made_from, _source(place))


def _source(place: Place) -> dict[str, str]:
    """The address as somebody else would give it, with the store where it is not AWS's."""
    endpoint = {"endpoint": redacted(place.endpoint)} if place.endpoint and not is_aws(place.endpoint) else {}
    return {"uri": f"s3://{place.bucket}/{place.key}", **endpoint}


def _download(client: Any, place: Place, objects: list[StoredObject], partial: PartialDownload) -> None:
    from boto3.s3.transfer import TransferConfig, create_transfer_manager
    from botocore.exceptions import ClientError
    from s3transfer import exceptions
    from s3transfer.subscribers import BaseSubscriber

    progress = Progress(f"s3://{place.bucket}", sum(entry.size for entry in objects), "bytes")
    etags = {entry.key: entry.etag for entry in objects}

    class Known(BaseSubscriber):
        """Saves the transfer from asking for the size again, and follows it."""

        def __init__(self, size: int) -> None:
            self._size = size

        def on_queued(self, future: Any, **_: Any) -> None:
            future.meta.provide_transfer_size(self._size)

        def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:
            progress.add(bytes_transferred)

    def only_this_version(params: dict[str, Any], **_: Any) -> None:
        params["IfMatch"] = etags[params["Key"]]

    client.meta.events.register(_BEFORE_GET, only_this_version)
    config = TransferConfig(
        multipart_threshold=_PART_SIZE,
        multipart_chunksize=_PART_SIZE,
        max_concurrency=PARTS_AT_ONCE,
        preferred_transfer_client="classic",
    )
    try:
        # Leaving the block with an error cancels what is still under way.
        with create_transfer_manager(client, config) as manager:
            transfers = []
            for entry in objects:
                file = partial.folder / entry.name
                file.parent.mkdir(parents=True, exist_ok=True)
                transfers.append(
                    (entry, manager.download(place.bucket, entry.key, str(file), subscribers=[Known(entry.size)]))
                )
            for entry, transfer in transfers:
                transfer.result()
                if (partial.folder / entry.name).stat().st_size != entry.size:
                    raise _ChangedMeanwhile
                partial.mark(entry.name, entry.size)
    # What s3transfer makes of a refused part; older versions let the ClientError through.
    except getattr(exceptions, "S3DownloadFailedError", ()):
        raise _ChangedMeanwhile from None
    except ClientError as error:
        if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey", "404", "InvalidRange", "416"):
            raise _ChangedMeanwhile from None
        raise
    finally:
        client.meta.events.unregister(_BEFORE_GET, only_this_version)
