"""A base model in S3 or a store that speaks it: fetched into the workspace, whole or not at all."""

from pathlib import Path, PurePosixPath
from typing import Any

from kfp_osft.shared.model.folder import BASE_MODELS, WEIGHT_FILES
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.listing import listed
from kfp_osft.shared.s3.fetching import StoredObject, fetch_objects, objects_below
from kfp_osft.shared.s3.store import Place, parse_place
from kfp_osft.stages.preprocess.needed_files import needed_files

_PARAMETER = "training_base_model"
_MOST_NAMES_SHOWN = 3


def fetch_s3_model(base_model: str, workspace: Path, trust_remote_code: bool) -> Path:
    """Fetches what a training needs of the model below a prefix, unless it is there already, and returns its folder.

    The folder is BASE_MODELS/<digest of names and ETags>/<last part of the prefix>: a model that is replaced in the
    store gets another one. The credentials come from the environment, see shared/s3/store.

    Args:
        base_model: s3://bucket/prefix, or s3:///prefix where AWS_S3_BUCKET names the bucket.
        workspace: existing folder.
        trust_remote_code: whether Python code beside the model is fetched too.

    Raises:
        InputError: nothing there, no model, no access, no answer, no room.
    """
    place = parse_place(_PARAMETER, base_model)
    name = PurePosixPath(place.key).name or place.bucket
    folder, _ = fetch_objects(
        place,
        workspace,
        "preprocess",
        lambda client: [
            entry._replace(name=f"{name}/{entry.name}") for entry in _needed(client, place, trust_remote_code)
        ],
        lambda digest: workspace / BASE_MODELS / digest,
    )
    return folder / name


def _needed(client: Any, place: Place, trust_remote_code: bool) -> list[StoredObject]:
    objects = {entry.name: entry for entry in objects_below(client, place)}
    small, weights = needed_files(list(objects), trust_remote_code)
    if "config.json" not in small or not weights:
        there = f"; there are {listed(sorted(objects), _MOST_NAMES_SHOWN)}" if objects else ""
        raise InputError(
            f"{place.said}: not a model, which has config.json and weights ({' or '.join(WEIGHT_FILES)}) directly "
            f"below the prefix{there}"
        )
    return [objects[name] for name in sorted([*small, *weights])]
