"""Datasets brought into a workspace by resolve, in this process."""

from pathlib import Path

from helpers.errors import error_of
from kfp_osft.stages.resolve_dataset.source import resolve


def fetched(uri: str, pvc: Path) -> Path:
    return Path(resolve(uri, "train", str(pvc), None).dataset_path)


def refusal(uri: str, pvc: Path, dataset: object = None) -> str:
    return error_of(resolve, uri, "train", str(pvc), dataset)
