from pathlib import Path
from types import SimpleNamespace

import pytest

from kfp_osft.stages.export_model.artifact import artifact_metadata

_PUBLISHED = {
    "dataset": {"name": "rows.jsonl"},
    "base_model": {"name": "org/model"},
    "checkpoint": {"name": "samples_64.0"},
    "library_versions": {},
    "parameters": {},
    "metrics": {},
}


@pytest.mark.parametrize(
    ("uri", "artifact_path"),
    [
        ("minio://mlpipeline/v2/artifacts/osft/model", "s3://mlpipeline/v2/artifacts/osft/model"),
        ("s3://bucket/minio://model", "s3://bucket/minio://model"),
        ("gs://bucket/model", "gs://bucket/model"),
    ],
)
def test_the_models_place_is_a_uri_from_which_kserve_loads(uri: str, artifact_path: str):
    artifact = SimpleNamespace(path="/tmp/model", uri=uri, metadata={})

    metadata = artifact_metadata(
        "model-osft", artifact, Path("/kfp-workspace/final_model"), "/kfp-workspace/c", _PUBLISHED
    )

    assert metadata["artifact_path"] == artifact_path
