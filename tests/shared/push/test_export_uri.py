"""The tag of a run in MLflow that says where its model was published."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.s3 import S3Server
from helpers.errors import error_of
from kfp_osft.shared.push import export_uri
from kfp_osft.shared.push.export_uri import push_to_export_uri


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of the run's MLflow run."""
    found: dict[str, str] = {}
    tracked = SimpleNamespace(set_tags=found.update)
    monkeypatch.setattr(export_uri, "tracked_run", lambda run: contextlib.nullcontext(tracked if run else None))
    return found


def test_the_run_is_tagged_with_the_place_of_its_model(store: S3Server, model: Path, tags: dict[str, str]):
    assert push_to_export_uri(model, "s3://models/tagged/", {"fingerprint": "f"}) == "s3://models/tagged"
    assert tags == {"export_uri": "s3://models/tagged"}


def test_a_push_that_fails_leaves_no_tag(store: S3Server, model: Path, tags: dict[str, str]):
    assert "has no bucket gone" in error_of(push_to_export_uri, model, "s3://gone/tiny", {"fingerprint": "f"})
    assert tags == {}
