import pytest
import torch
from kfp_osft.shared.errors import InputError
from kfp_osft.shared.kept_subspace import kept_rank, leaked_share, leaked_shares, trained_projections
from kfp_osft.shared.train_script import hide_broken_torchvision
from safetensors.torch import save_file

RATIO = 0.25


def matrix(rows=24, columns=16, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def directions(base):
    """The kept left and right directions of a matrix and its free ones, as columns."""
    left, _, right = torch.linalg.svd(base, full_matrices=False)
    k = kept_rank(tuple(base.shape), RATIO)
    return left[:, :k], right[:k].T, left[:, k:], right[k:].T


@pytest.mark.parametrize(
    ("shape", "ratio", "rank"),
    [
        ((64, 64), 0.25, 48),
        ((64, 128), 0.3, 44),  # of the shorter side, rounded down
        ((32, 64), 0.1, 28),
        ((64, 64), 0.0, 63),  # one direction at least is free
        ((64, 64), 1.0, 32),  # mini-trainer takes "all unfrozen" for "not given", which is 0.5
        ((64, 64), 0.99, 0),
    ],
)
def test_the_kept_rank_is_mini_trainers(shape, ratio, rank):
    assert kept_rank(shape, ratio) == rank


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.3, 1 / 3, 0.7, 0.9, 1.0])
def test_the_kept_rank_agrees_with_mini_trainer_itself(ratio):
    hide_broken_torchvision()
    from mini_trainer import osft_utils

    sizes = (7, 32, 64, 96, 576)
    model = torch.nn.ModuleDict({f"q_proj_{n}": torch.nn.Linear(n, 96, bias=False) for n in sizes})
    # As train.py and from_pretrained hand the ratio on.
    given = osft_utils._build_osft_kwargs(1.0 - ratio, None)
    ranks = osft_utils.auto_generate_target_osft_config(
        model, target_patterns=["q_proj"], rank_ratio=given.get("rank_ratio", 0.5)
    )
    assert ranks == {name: kept_rank(tuple(weight.shape), ratio) for name, weight in model.named_parameters()}


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_a_change_in_the_free_directions_leaks_nothing(shape):
    base = matrix(*shape)
    _, _, free_left, free_right = directions(base)
    change = free_left @ matrix(free_left.shape[1], free_right.shape[1], seed=1) @ free_right.T
    assert leaked_share(base, base + change, RATIO) < 1e-4


def test_a_change_in_the_kept_directions_leaks_all_of_it():
    base = matrix()
    kept_left, kept_right, _, _ = directions(base)
    assert leaked_share(base, base + kept_left @ kept_right.T, RATIO) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_change_in_the_kept_directions_of_one_side_leaks_all_of_it(side):
    base = matrix()
    kept_left, kept_right, free_left, free_right = directions(base)
    k = free_left.shape[1]
    change = kept_left[:, :k] @ free_right.T if side == "left" else free_left @ kept_right[:, :k].T
    assert leaked_share(base, base + change, RATIO) == pytest.approx(1, abs=1e-4)


def test_the_share_is_that_of_the_norm():
    base = matrix()
    kept_left, kept_right, free_left, free_right = directions(base)
    change = 3 * kept_left[:, :1] @ kept_right[:, :1].T + 4 * free_left[:, :1] @ free_right[:, :1].T
    assert leaked_share(base, base + change, RATIO) == pytest.approx(3 / 5, abs=1e-4)


def test_a_matrix_that_did_not_change_leaks_nothing():
    base = matrix()
    assert leaked_share(base, base.clone(), RATIO) == 0.0


def test_a_matrix_that_was_only_put_together_from_its_parts_did_not_change():
    base = matrix(200, 100)
    left, values, right = torch.linalg.svd(base, full_matrices=False)
    again = (left * values) @ right
    assert not again.equal(base) and leaked_share(base, again, RATIO) == 0.0


@pytest.mark.parametrize("shape", [(24, 15), (24,)])
def test_what_is_not_two_matrices_of_one_shape_is_refused(shape):
    with pytest.raises(InputError, match="must be matrices of one shape"):
        leaked_share(matrix(), torch.ones(shape), RATIO)


def test_the_trained_projections_are_the_weights_that_osft_splits():
    layer = "model.layers.0."
    assert trained_projections(
        [
            layer + "self_attn.q_proj.weight",
            layer + "mlp.down_proj.weight",
            layer + "self_attn.q_proj.bias",
            layer + "input_layernorm.weight",
            layer + "mlp.gate.weight",
            "model.embed_tokens.weight",
            "lm_head.weight",
        ]
    ) == [layer + "mlp.down_proj.weight", layer + "self_attn.q_proj.weight"]


@pytest.fixture
def models(tmp_path):
    """A base model in two files and a tuned one in one file and half precision: one projection leaks."""
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    base.mkdir()
    tuned.mkdir()
    free, leaking, same = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3))
    weights = {name: matrix(seed=seed) for seed, name in enumerate((free, leaking, same))}
    weights["model.embed_tokens.weight"] = matrix(seed=9)
    save_file({free: weights[free], same: weights[same]}, base / "model-00001-of-00002.safetensors")
    rest = {name: weight for name, weight in weights.items() if name not in (free, same)}
    save_file(rest, base / "model-00002-of-00002.safetensors")
    kept_left, kept_right, free_left, free_right = directions(weights[leaking])
    weights[leaking] = weights[leaking] + kept_left @ kept_right.T
    _, _, free_left, free_right = directions(weights[free])
    weights[free] = weights[free] + 5 * free_left @ free_right.T
    weights["model.embed_tokens.weight"] = matrix(seed=10)
    halves = {name: weight.half().contiguous() for name, weight in weights.items()}
    save_file(halves, tuned / "model.safetensors")
    return base, tuned, (free, leaking, same)


def test_two_models_are_compared_projection_by_projection(models):
    base, tuned, (free, leaking, same) = models
    shares = leaked_shares(base, tuned, RATIO)
    assert sorted(shares) == [free, leaking, same]
    assert shares[free] < 0.01 < 0.99 < shares[leaking]


def test_a_sample_is_of_the_size_asked_for_and_always_the_same(models):
    base, tuned, names = models
    sample = leaked_shares(base, tuned, RATIO, sample=2)
    assert len(sample) == 2 and sample == leaked_shares(base, tuned, RATIO, sample=2)
    assert sorted(leaked_shares(base, tuned, RATIO, sample=100)) == sorted(names)


def test_a_folder_without_weights_is_named(models, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no .safetensors file"):
        leaked_shares(models[0], tmp_path / "empty", RATIO)


def test_models_without_a_common_projection_are_refused(models, tmp_path):
    (tmp_path / "other").mkdir()
    save_file({"transformer.h.0.attn.c_attn.weight": matrix()}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(InputError, match="have no projection in common"):
        leaked_shares(models[0], tmp_path / "other", RATIO)
