"""What is said of the decomposition before the first step."""

import mini_trainer.osft_utils
import pytest
import torch

from kfp_osft.stages.launch_trainjob import train_decomposition
from kfp_osft.stages.launch_trainjob.train_decomposition import Decomposition, tell_decomposition


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(train_decomposition.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_follows_the_work_in_the_matrices(clock, capsys):
    decomposition = Decomposition(ranks=1)
    shapes = [(100, 100), (100, 100), (200, 200), (200, 200)]
    for shape in shapes:
        decomposition.expect(*shape)
    for shape in shapes:
        decomposition.begin()
        # As long as the cube of its side: 11 s, and 88 s.
        clock[0] += 11 * (shape[0] / 100) ** 3
        decomposition.took(*shape)
    assert capsys.readouterr().out.splitlines() == [
        "kfp-osft: Decomposed 1 of 4 matrices, 3 min 7 s left before the first step",
        "kfp-osft: Decomposed 2 of 4 matrices, 2 min 56 s left before the first step",
        "kfp-osft: Decomposed 3 of 4 matrices, 1 min 28 s left before the first step",
        "kfp-osft: Decomposed 4 of 4 matrices, 0 s left before the first step",
    ]


def test_quick_matrices_are_told_every_ten_seconds_and_a_rank_has_its_share(clock, capsys):
    decomposition = Decomposition(ranks=2)
    for _ in range(40):
        decomposition.expect(64, 64)
    for _ in range(20):
        decomposition.begin()
        clock[0] += 2
        decomposition.took(64, 64)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said] == [
        f"kfp-osft: Decomposed {done} of 20 matrices" for done in (5, 10, 15, 20)
    ]
    assert said[0].endswith("30 s left before the first step")


def test_mini_trainers_own_decomposition_is_counted_and_unchanged(monkeypatch, capsys):
    create = mini_trainer.osft_utils.create_svd_dict
    monkeypatch.setattr(mini_trainer.osft_utils, "create_svd_dict", create)
    monkeypatch.setattr(train_decomposition, "_SECONDS_BETWEEN_LINES", 0.0)
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    tell_decomposition()
    told = mini_trainer.osft_utils.create_svd_dict
    for _ in range(2):
        told(weight.to("meta"), top_k=3, decompose_existing=False, use_meta=True)
    found, expected = told(weight, top_k=3), create(weight, top_k=3)
    assert found.keys() == expected.keys() and torch.equal(found["U_low"], expected["U_low"])
    assert "Decomposed 1 of 2 matrices" in capsys.readouterr().out


def test_other_ranks_say_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    create = mini_trainer.osft_utils.create_svd_dict
    tell_decomposition()
    assert mini_trainer.osft_utils.create_svd_dict is create
