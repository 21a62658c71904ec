"""Datasets in S3 and stores that speak it: one object, or those below a prefix.

Credentials and endpoint come from the environment: what boto3 reads, and what RHOAI's data connections are called.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kfp_osft.shared.files.manifests import fingerprint, read_manifest
from kfp_osft.shared.network.errors import is_lasting, network_cause
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.listing import listed
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.progress import Progress
from kfp_osft.shared.reporting.redaction import redacted
from kfp_osft.shared.reporting.sizes import size_text
from kfp_osft.shared.rows.files import is_hidden
from kfp_osft.shared.rows.formats import ALLOWED_FILES, has_data_extension
from kfp_osft.stages.resolve_dataset.download import (
    MANIFEST,
    PartialDownload,
    check_room,
    partial_download,
)
from kfp_osft.stages.resolve_dataset.object_names import file_names

_MIB = 1 << 20
# Parts of 16 MiB, ten at a time: what one connection to S3 carries is a fraction of a pod's network.
_PART_SIZE, _PARTS_AT_ONCE = 16 * _MIB, 10
_BEFORE_GET, _BEFORE_RETRY = "before-parameter-build.s3.GetObject", "needs-retry.s3"
_ENDPOINTS = ("AWS_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_DEFAULT_REGION", "AWS_REGION")
_MOST_CHANGES = 3
# Bytes; S3 itself has objects of 50 TB at most.
_LARGEST = 1 << 60
_LONGEST_CAUSE = 120
_MOST_NAMES_SHOWN = 3


class _Place(NamedTuple):
    """A dataset_uri, taken apart; `said` is how messages begin."""

    bucket: str
    key: str
    endpoint: str | None
    said: str


class _Object(NamedTuple):
    key: str
    size: int
    etag: str
    #: Path of its file, relative to the dataset's folder.
    name: str


class _ChangedMeanwhile(Exception):
    pass


def fetch_from_s3(uri: str, workspace: Path) -> Path:
    """Downloads an object, or the data objects below a prefix, to workspace/datasets, once for the same ETags.

    Args:
        uri: s3://bucket/key or s3://bucket/prefix; s3:///key where AWS_S3_BUCKET names the bucket.
        workspace: the workspace folder.

    Returns:
        The object's file, or the folder of the prefix.

    Raises:
        InputError: nothing there, no data, no access, no answer, no room.
    """
    place = _place(uri)
    with _explained(place):
        client = _client(place)
        for _ in range(_MOST_CHANGES):
            objects = _known_objects(client, place)
            try:
                return _fetch(client, place, objects, workspace)
            except _ChangedMeanwhile:
                log(f"{place.said}: changed during the download; starting again")
    raise InputError(f"{place.said}: changed {_MOST_CHANGES} times during the download")


def _place(uri: str) -> _Place:
    said = f"dataset_uri={redacted(uri)}"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if "@" in bucket:
        raise InputError(f"{said}: credentials do not belong there; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    bucket = bucket or _environment("AWS_S3_BUCKET")
    if not bucket:
        raise InputError(f"{said}: names no bucket, and AWS_S3_BUCKET is not set; allowed: s3://bucket/key")
    # A data connection's name for it, and the AWS SDK's.
    endpoint = next(filter(None, map(_environment, _ENDPOINTS)), "")
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    _check_endpoint(endpoint, bucket, said)
    return _Place(bucket, key.lstrip("/"), endpoint or None, said)


def _check_endpoint(endpoint: str, bucket: str, said: str) -> None:
    """Raises InputError where the endpoint names the bucket, as consoles of stores show it: the bucket's name would
    then be taken for the first part of each key."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        # boto3 reports it.
        return
    if host.startswith(f"{bucket}.") or bucket in PurePosixPath(parts.path).parts:
        raise InputError(
            f"{said}: {_set_of(_ENDPOINTS)}={redacted(endpoint)} contains the bucket {bucket}, which belongs in "
            f"dataset_uri only; set {_set_of(_ENDPOINTS)}={parts.scheme}://{host.removeprefix(f'{bucket}.')}{port}"
        )


def _environment(name: str) -> str:
    """The variable, without the newline that a Secret made with `echo` ends with."""
    return os.environ.get(name, "").strip()


def _set_of(names: tuple[str, ...]) -> str:
    """The name that holds; the first where none is set."""
    return next(filter(_environment, names), names[0])


def _client(place: _Place) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise InputError(f"{place.said}: s3:// needs the package boto3, which this environment does not have") from None

    key_id, secret = _environment("AWS_ACCESS_KEY_ID"), _environment("AWS_SECRET_ACCESS_KEY")
    if bool(key_id) != bool(secret):
        names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        there, missing = names if key_id else reversed(names)
        raise InputError(f"{place.said}: {there} is set and {missing} is not; set both")
    given = {
        "aws_access_key_id": key_id,
        "aws_secret_access_key": secret,
        "aws_session_token": _environment("AWS_SESSION_TOKEN") if key_id else "",
        # A data connection may leave the region empty, which boto3 takes for a region's name.
        "region_name": next(filter(None, map(_environment, _REGIONS)), "us-east-1"),
        "endpoint_url": place.endpoint,
    }
    is_other_store = place.endpoint and not _is_aws(place.endpoint)
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=_PARTS_AT_ONCE,
        # In a cluster, bucket.host of a store has no entry in the name service.
        s3={"addressing_style": "path"} if is_other_store else None,
    )
    try:
        client = boto3.Session().client("s3", config=config, **{name: value for name, value in given.items() if value})
        client.meta.events.register_first(_BEFORE_RETRY, _give_up_what_lasts)
        return client
    except ValueError:
        raise InputError(
            f"{place.said}: {_set_of(_ENDPOINTS)}={redacted(place.endpoint or '')} is not the URL of a store; "
            "allowed: http(s)://host[:port]"
        ) from None


def _give_up_what_lasts(caught_exception: Exception | None = None, **_: Any) -> None:
    """Ends botocore's retries, which take half a minute, where another try is of no use."""
    if caught_exception is not None and is_lasting(caught_exception):
        raise caught_exception


def _known_objects(client: Any, place: _Place) -> list[_Object]:
    """_objects, of what may be no S3 store: a login page, a proxy, a server with answers of its own."""
    try:
        objects = _objects(client, place)
        if not all(isinstance(entry.size, int) and 0 <= entry.size < _LARGEST for entry in objects):
            raise ValueError("an object's size is out of range")
        return objects
    except InputError:
        raise
    # What botocore, and the look into its dicts, make of them.
    except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{place.said}: {_store(place)} answers as no S3 store does ({cause[:_LONGEST_CAUSE]})"
        ) from None


def _objects(client: Any, place: _Place) -> list[_Object]:
    """The object that is named so; if there is none, the data objects below it, sorted."""
    if place.key and not place.key.endswith("/"):
        found = _object(client, place)
        if found:
            return [found]
    prefix = place.key and place.key.rstrip("/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix)
    entries = [entry for page in pages for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")]
    # As in a folder: hidden files are not data.
    names = {entry["Key"]: entry["Key"].removeprefix(prefix) for entry in entries}
    seen = [entry for entry in entries if not is_hidden(PurePosixPath(names[entry["Key"]]))]
    data = [entry for entry in seen if has_data_extension(entry["Key"])]
    others = [names[entry["Key"]] for entry in seen if not has_data_extension(entry["Key"])]
    if not data:
        raise InputError(f"{place.said}: {_nothing_there(client, place, others)}")
    if others:
        log(f"Skipped, as they do not have the extension of a data file: {listed(others, _MOST_NAMES_SHOWN)}")
    empty = [entry["Key"] for entry in data if not entry["Size"]]
    if empty:
        raise InputError(f"{place.said}: holds empty objects: {listed(empty, _MOST_NAMES_SHOWN)}")
    outside = next((entry["Key"] for entry in data if ".." in names[entry["Key"]].split("/")), None)
    if outside is not None:
        raise InputError(f"{place.said}: the key {outside} cannot be a file below a folder")
    paths = file_names(names[entry["Key"]] for entry in data)
    objects = [_Object(entry["Key"], entry["Size"], entry["ETag"], paths[names[entry["Key"]]]) for entry in data]
    return sorted(objects, key=lambda entry: entry.name)


def _object(client: Any, place: _Place) -> _Object | None:
    from botocore.exceptions import ClientError

    try:
        head = client.head_object(Bucket=place.bucket, Key=place.key)
    except ClientError as error:
        # 403 also where the credentials may not list and so may not know. What it is, the list says in its body.
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
            return None
        raise
    if not has_data_extension(place.key) and PurePosixPath(place.key).suffix:
        raise InputError(f"{place.said}: is not one of {ALLOWED_FILES}")
    if not head["ContentLength"]:
        raise InputError(f"{place.said}: the object is empty")
    name = PurePosixPath(place.key).name
    return _Object(place.key, head["ContentLength"], head["ETag"], file_names([name])[name])


def _nothing_there(client: Any, place: _Place, others: list[str]) -> str:
    if others:
        return f"holds no data file, but {listed(others, _MOST_NAMES_SHOWN)}; allowed: {ALLOWED_FILES}"
    found = client.list_objects_v2(Bucket=place.bucket, Prefix=place.key.rstrip("/"), MaxKeys=_MOST_NAMES_SHOWN)
    keys = [entry["Key"] for entry in found.get("Contents", ())]
    near = f"; there are keys that begin so: {listed(keys, _MOST_NAMES_SHOWN)}" if keys and place.key else ""
    return f"there is no such object and none below it in bucket {place.bucket}{near}"


def _fetch(client: Any, place: _Place, objects: list[_Object], workspace: Path) -> Path:
    made_from = {
        "s3": f"{place.bucket}/{place.key}".rstrip("/"),
        "endpoint": redacted(client.meta.endpoint_url),
        "objects": [[entry.key, entry.size, entry.etag] for entry in objects],
    }
    is_one = len(objects) == 1 and objects[0].key == place.key
    label = re.sub(r"[^\w.-]+", "-", f"{place.bucket}-{place.key}".rstrip("/"))[-60:].strip("-.")
    folder = workspace / "datasets" / f"s3-{label}-{fingerprint(made_from)[:12]}"
    dataset = folder / objects[0].name if is_one else folder
    if read_manifest(folder / MANIFEST, made_from):
        log(f"{place.said}: unchanged and already in the workspace")
        return dataset
    with partial_download(folder) as partial:
        missing = [entry for entry in objects if partial.trusted_bytes(entry.name) != entry.size]
        size = sum(entry.size for entry in missing)
        check_room(workspace, size, place.said)
        log(f"Downloading {len(missing)} of {len(objects)} objects, {size_text(size)}")
        _download(client, place, missing, partial)
        partial.publish(folder, made_from, _source(place))
    return dataset


def _source(place: _Place) -> dict[str, str]:
    """The address as somebody else would give it, with the store where it is not AWS's."""
    endpoint = {"endpoint": redacted(place.endpoint)} if place.endpoint and not _is_aws(place.endpoint) else {}
    return {"uri": f"s3://{place.bucket}/{place.key}", **endpoint}


def _is_aws(endpoint: str) -> bool:
    return bool(re.search(r"\.amazonaws\.com(\.cn)?(?=[:/]|$)", endpoint))


def _download(client: Any, place: _Place, objects: list[_Object], partial: PartialDownload) -> None:
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
        max_concurrency=_PARTS_AT_ONCE,
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


@contextmanager
def _explained(place: _Place) -> Iterator[None]:
    """Turns what botocore raises into InputErrors that say what to do."""
    try:
        import botocore.exceptions as boto
        from s3transfer.exceptions import RetriesExceededError
    except ImportError:
        yield
        return
    try:
        yield
    except boto.ClientError as error:
        raise InputError(f"{place.said}: {_refusal(error.response, place)}") from None
    except (boto.NoCredentialsError, boto.CredentialRetrievalError):
        raise InputError(
            f"{place.said}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(on a cluster: the Secret of a data connection)"
        ) from None
    except boto.ParamValidationError:
        raise InputError(f"{place.said}: '{place.bucket}' is not a valid bucket name") from None
    except (boto.HTTPClientError, boto.ConnectionError, RetriesExceededError) as error:
        raise InputError(f"{place.said}: {_store(place)} cannot be reached: {network_cause(error)}") from None
    except boto.BotoCoreError as error:
        raise InputError(f"{place.said}: boto3 is not configured for it: {error}".splitlines()[0]) from None


def _store(place: _Place) -> str:
    return f"the S3 store {redacted(place.endpoint)}" if place.endpoint else "the S3 store"


def _refusal(response: Mapping[str, Any], place: _Place) -> str:
    code = response["Error"]["Code"]
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    store = _store(place)
    if code == "NoSuchBucket":
        return f"{store} has no bucket {place.bucket}"
    if code == "InvalidAccessKeyId":
        return f"{store} does not know the key id in AWS_ACCESS_KEY_ID"
    if code == "SignatureDoesNotMatch":
        return f"{store} refuses the signature; AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID"
    if code in ("ExpiredToken", "InvalidToken", "ExpiredTokenException"):
        return f"{store} refuses AWS_SESSION_TOKEN: it has expired or is not valid"
    if code == "RequestTimeTooSkewed":
        return f"{store} refuses the request: the clock here differs from its own"
    if status in (301, 307) or code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return f"bucket {place.bucket} is in another region than {_set_of(_REGIONS)} says"
    if status in (401, 403):
        return (
            f"{store} denies these credentials access ({status} {code}); they need s3:GetObject, and "
            "s3:ListBucket for a prefix"
        )
    return f"{store} answers {status} {code}"
