"""What a training kept: of a tiny model that is changed within OSFT's limits, without limits, and not at all."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from kfp_osft.shared.knowledge.check import MOST_LEAK, check_knowledge
from kfp_osft.shared.knowledge.coverage import coverage_of
from kfp_osft.shared.knowledge.kept_subspace import kept_rank, limited_matrices

RATIO = 0.25


def change_of(weight, within):
    """A change of 2 %, random, in the free directions or in all."""
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    if within:
        left, _, right = torch.linalg.svd(weight, full_matrices=False)
        k = kept_rank(tuple(weight.shape), RATIO)
        change = left[:, k:] @ (left[:, k:].T @ change @ right[k:].T) @ right[k:]
    return change * 0.02 * torch.linalg.norm(weight) / torch.linalg.norm(change)


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory):
    """Makes base and tuned model in a dtype; `how` is "osft", "plain" or "same"."""

    def make(dtype, how):
        folders = []
        kinds = coverage_of(str(tiny_model)).kinds
        weights = {name: weight.to(dtype) for name, weight in load_file(tiny_model / "model.safetensors").items()}
        for name in ("base", "tuned"):
            folder = tmp_path_factory.mktemp("models") / name
            shutil.copytree(tiny_model, folder)
            if name == "tuned" and how != "same":
                for matrix in limited_matrices({key: weight.shape for key, weight in weights.items()}, kinds):
                    weight = weights[matrix].float()
                    weights[matrix] = (weight + change_of(weight, how == "osft")).to(dtype)
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            folders.append(folder)
        return folders

    return make


def checked(models, **options):
    return check_knowledge(*models, options.pop("ratio", RATIO), **{"matrices": 14, "seconds": 600, **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("how", "verdict", "least", "most"),
    [("osft", "kept: ", 0.0, 0.02), ("plain", "leaked: up to ", 0.6, 1.0)],
)
def test_a_training_within_osfts_limits_kept_and_a_plain_one_leaked_in_either_type(
    models, dtype, how, verdict, least, most
):
    check = checked(models(dtype, how))
    assert check.verdict.startswith(verdict) and check.verdict.endswith("; looked at 14 of 14 limited matrices")
    assert least <= check.leak <= most and check.matrices == len(check.changes) == 14
    assert ("where rounding to bfloat16 alone puts" in check.verdict) is (how == "osft" and dtype == torch.bfloat16)
    figures = check.metrics()
    assert figures["kept_subspace_leak_max"] == check.leak <= figures["kept_subspace_share_max"]
    assert figures["kept_subspace_matrices"] == 14 and figures["kept_subspace_matrices_untold"] == 0
    assert (check.leak > MOST_LEAK) is (how == "plain")


def test_a_float16_model_says_how_much_of_the_share_rounding_makes(models):
    # The share is 100 to 200 times that of the same training in float32: the type's spacing at each weight's size.
    half, full = (checked(models(dtype, "osft")) for dtype in (torch.float16, torch.float32))
    largest = [max(change.share for change in check.told) for check in (half, full)]
    assert largest[0] > 10 * largest[1] and half.leak < 0.01
    alone = re.search(r"where rounding to float16 alone puts ([\d.]+)%", half.verdict)
    assert float(alone[1]) / 100 == pytest.approx(largest[0], rel=0.2)


def test_where_the_ratio_frees_every_direction_there_is_nothing_to_keep(models):
    check = checked(models(torch.float32, "plain"), ratio=1.0)
    assert check.verdict.startswith("nothing to keep: an unfreeze rank ratio of 1 frees every direction; looked at 14")


def test_weights_outside_osfts_limits_that_changed_are_named(models):
    base, tuned = models(torch.float32, "same")
    weights = load_file(tuned / "model.safetensors")
    for name in weights:
        if "mlp.up_proj" in name or "mlp.down_proj" in name or "norm" in name:
            weights[name] = weights[name] * (1.5 if "up_proj" in name else 1.01)
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})

    check = checked((base, tuned), target_patterns=["self_attn.q_proj"])

    assert check.verdict == (
        "unchanged: the matrices that OSFT limits did not change; looked at 2 of 2 limited matrices; changed without "
        "limit, by up to 50%: layers.*.mlp.up_proj, layers.*.mlp.down_proj"
    )
    assert check.metrics()["unlimited_kinds_changed"] == 5


def test_a_model_that_did_not_change_is_said_to_be_unchanged(models):
    check = checked(models(torch.float32, "same"))
    assert check.verdict == "unchanged: no weight changed; looked at 14 of 14 limited matrices"
    assert check.leak is None and "kept_subspace_leak_max" not in check.metrics()


def test_without_time_one_matrix_is_looked_at_all_the_same(models):
    check = checked(models(torch.float32, "osft"), seconds=0)
    assert len(check.changes) == 1 and check.matrices == 14
    assert "looked at 1 of 14 limited matrices" in check.verdict


def test_each_figure_is_told_as_it_comes(models):
    told = []
    check = checked(models(torch.float32, "osft"), matrices=2, tell=told.append)
    assert [change.name.removesuffix(".weight") for change in check.changes] == [line.split()[0] for line in told[1:]]
    assert all(len(line) <= 80 for line in told)
