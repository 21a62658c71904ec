"""Stage 1: brings the dataset into the workspace."""

from typing import NamedTuple

from kfp import dsl

from kfp_osft.stages.component import stage


# training-hub does not bring boto3; an image that has it, in a version of the last years, keeps its own.
@stage(packages_to_install=["boto3>=1.34,<2"])
def resolve_dataset(
    pvc_path: str,
    dataset_uri: str = "",
    dataset_split: str = "train",
    # Not Optional[...], which pyright asks for: the backend describes an input artifact without its type, and KFP then
    # calls the annotation.
    dataset: dsl.Input[dsl.Dataset] = None,  # pyright: ignore[reportArgumentType]
    validation_uri: str = "",
    validation_uri_split: str = "validation",
) -> NamedTuple("Outputs", [("dataset_path", str), ("num_rows", int), ("validation_path", str)]):
    """Brings the dataset into the workspace and counts its rows.

    Args:
        pvc_path: Workspace folder: the mounted PVC, or a folder of this computer.
        dataset_uri: A path, pvc://path (below pvc_path), s3://bucket/key or a prefix, an http(s) URL of one file,
            org/name or hf://org/name[@revision][/config] of a Hugging Face dataset. Files: .jsonl, .json, .parquet,
            .csv, .arrow, each also .gz or .zst; a folder of such, or one of save_to_disk. Empty with an upstream
            dataset.
        dataset_split: Split of a Hugging Face dataset, of a DatasetDict that was saved to disk, or of a folder whose
            files are named train, validation, test.
        dataset: Upstream dataset artifact, instead of dataset_uri.
        validation_uri: Rows to hold out from the training, as dataset_uri takes it. Empty for none.
        validation_uri_split: Split of validation_uri.

    Returns:
        dataset_path: File or folder of the rows.
        num_rows: How many there are.
        validation_path: File or folder of the held-out rows, empty without validation_uri.
    """
    from kfp_osft.stages.resolve_dataset.source import resolve

    return resolve(dataset_uri, dataset_split, pvc_path, dataset, validation_uri, validation_uri_split)
