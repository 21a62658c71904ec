"""Families whose matrices mini-trainer does not know, trained with our patterns."""

from pathlib import Path

import pytest

from helpers.tiny_families import save_model
from helpers.tiny_model import write_chat_rows
from kfp_osft.shared.knowledge.coverage import coverage_of
from kfp_osft.shared.knowledge.family_patterns import OWN_PATTERNS
from kfp_osft.shared.knowledge.kept_subspace import ModelChanges
from kfp_osft.stages.launch_trainjob.local_engine import train_locally

RATIO = 0.5


@pytest.mark.slow
@pytest.mark.parametrize("family", OWN_PATTERNS)
def test_a_family_with_patterns_of_ours_is_limited_wholly_and_keeps(family: str, tiny_model: Path, tmp_path: Path):
    base = save_model(tmp_path / "base", family, tiny_model)
    coverage = coverage_of(str(base))
    assert coverage.share == 1.0

    train_locally(
        {
            "osft": {
                "model_path": str(base),
                "data_path": str(write_chat_rows(tmp_path / "rows.jsonl")),
                "data_output_dir": str(tmp_path / "data"),
                "ckpt_output_dir": str(tmp_path / "checkpoints"),
                "unfreeze_rank_ratio": RATIO,
                "target_patterns": coverage.patterns,
                "effective_batch_size": 8,
                "max_tokens_per_gpu": 600,
                "max_seq_len": 128,
                "learning_rate": 5e-3,
                "num_epochs": 1,
            },
            "device": "cpu",
        },
        {},
        tmp_path / "run.log",
    )

    (checkpoint,) = (tmp_path / "checkpoints" / "hf_format").iterdir()
    changes = list(ModelChanges(base, checkpoint, RATIO, coverage.kinds))
    assert len(changes) == 2 * len(coverage.kinds)
    assert all(change.changed and change.share < 0.01 for change in changes)
