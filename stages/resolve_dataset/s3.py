"""Datasets in S3 and stores that speak it: one object, or those below a prefix."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.listing import listed
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.rows.files import is_hidden
from kfp_osft.shared.rows.formats import ALLOWED_FILES, has_data_extension
from kfp_osft.shared.s3.fetching import StoredObject, fetch_objects, objects_below
from kfp_osft.shared.s3.store import Place, parse_place
from kfp_osft.stages.resolve_dataset.object_names import file_names

_MOST_NAMES_SHOWN = 3


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
    place = parse_place("dataset_uri", uri)
    label = re.sub(r"[^\w.-]+", "-", f"{place.bucket}-{place.key}".rstrip("/"))[-60:].strip("-.")
    folder, objects = fetch_objects(
        place,
        workspace,
        "resolve_dataset",
        lambda client: _objects(client, place),
        lambda digest: workspace / "datasets" / f"s3-{label}-{digest}",
    )
    is_one = len(objects) == 1 and objects[0].key == place.key
    return folder / objects[0].name if is_one else folder


def _objects(client: Any, place: Place) -> list[StoredObject]:
    """The object that is named so; if there is none, the data objects below it, sorted."""
    if place.key and not place.key.endswith("/"):
        found = _object(client, place)
        if found:
            return [found]
    # As in a folder: hidden files are not data.
    seen = [entry for entry in objects_below(client, place) if not is_hidden(PurePosixPath(entry.name))]
    data = [entry for entry in seen if has_data_extension(entry.key)]
    others = [entry.name for entry in seen if not has_data_extension(entry.key)]
    if not data:
        raise InputError(f"{place.said}: {_nothing_there(client, place, others)}")
    if others:
        log(f"Skipped, as they do not have the extension of a data file: {listed(others, _MOST_NAMES_SHOWN)}")
    empty = [entry.key for entry in data if not entry.size]
    if empty:
        raise InputError(f"{place.said}: holds empty objects: {listed(empty, _MOST_NAMES_SHOWN)}")
    outside = next((entry.key for entry in data if ".." in entry.name.split("/")), None)
    if outside is not None:
        raise InputError(f"{place.said}: the key {outside} cannot be a file below a folder")
    paths = file_names(entry.name for entry in data)
    return sorted((entry._replace(name=paths[entry.name]) for entry in data), key=lambda entry: entry.name)


def _object(client: Any, place: Place) -> StoredObject | None:
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
    return StoredObject(place.key, head["ContentLength"], head["ETag"], file_names([name])[name])


def _nothing_there(client: Any, place: Place, others: list[str]) -> str:
    if others:
        return f"holds no data file, but {listed(others, _MOST_NAMES_SHOWN)}; allowed: {ALLOWED_FILES}"
    found = client.list_objects_v2(Bucket=place.bucket, Prefix=place.key.rstrip("/"), MaxKeys=_MOST_NAMES_SHOWN)
    keys = [entry["Key"] for entry in found.get("Contents", ())]
    near = f"; there are keys that begin so: {listed(keys, _MOST_NAMES_SHOWN)}" if keys and place.key else ""
    return f"there is no such object and none below it in bucket {place.bucket}{near}"
