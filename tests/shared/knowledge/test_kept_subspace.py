import pytest
import torch
from safetensors.torch import save_file

from kfp_osft.shared.knowledge.kept_subspace import ModelChanges, kept_rank, limited_matrices, matrix_change
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.reporting.errors import InputError

RATIO = 0.25
KINDS = ["layers.*.self_attn.q_proj.weight", "layers.*.mlp.down_proj.weight"]


def matrix(rows=24, columns=16, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def share(base, tuned):
    """Of the change, that inside the kept directions."""
    return matrix_change("w", base, tuned, RATIO).share


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
        ((64, 64), 1.0, 0),
        ((64, 64), 0.99, 0),
    ],
)
def test_the_kept_rank_is_mini_trainers(shape, ratio, rank):
    assert kept_rank(shape, ratio) == rank


def as_passed_on(ratio):
    """The ratio that the training gets."""
    return check_parameters({"training_unfreeze_rank_ratio": ratio}).osft["unfreeze_rank_ratio"]


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.3, 1 / 3, 0.7, 0.9, 1.0])
def test_the_kept_rank_agrees_with_mini_trainer_itself(ratio):
    hide_broken_torchvision()
    from mini_trainer import osft_utils

    sizes = (7, 32, 64, 96, 576)
    model = torch.nn.ModuleDict({f"q_proj_{n}": torch.nn.Linear(n, 96, bias=False) for n in sizes})
    # As train.py and from_pretrained hand the ratio on.
    given = osft_utils._build_osft_kwargs(1.0 - as_passed_on(ratio), None)
    ranks = osft_utils.auto_generate_target_osft_config(
        model, target_patterns=["q_proj"], rank_ratio=given.get("rank_ratio", 0.5)
    )
    assert ranks == {name: kept_rank(tuple(weight.shape), ratio) for name, weight in model.named_parameters()}


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_a_change_in_the_free_directions_leaks_nothing(shape):
    base = matrix(*shape)
    _, _, free_left, free_right = directions(base)
    change = free_left @ matrix(free_left.shape[1], free_right.shape[1], seed=1) @ free_right.T
    assert share(base, base + change) < 1e-4


def test_a_change_in_the_kept_directions_leaks_all_of_it():
    base = matrix()
    kept_left, kept_right, _, _ = directions(base)
    assert share(base, base + kept_left @ kept_right.T) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_change_in_the_kept_directions_of_one_side_leaks_all_of_it(side):
    base = matrix()
    kept_left, kept_right, free_left, free_right = directions(base)
    k = free_left.shape[1]
    change = kept_left[:, :k] @ free_right.T if side == "left" else free_left @ kept_right[:, :k].T
    assert share(base, base + change) == pytest.approx(1, abs=1e-4)


def test_the_share_is_that_of_the_norm():
    base = matrix()
    kept_left, kept_right, free_left, free_right = directions(base)
    change = 3 * kept_left[:, :1] @ kept_right[:, :1].T + 4 * free_left[:, :1] @ free_right[:, :1].T
    assert share(base, base + change) == pytest.approx(3 / 5, abs=1e-4)


def test_a_matrix_that_did_not_change_leaks_nothing():
    base = matrix()
    change = matrix_change("w", base, base.clone(), RATIO)
    assert (change.share, change.leak, change.size, change.changed) == (0.0, 0.0, 0.0, False)


def test_a_matrix_that_was_only_put_together_from_its_parts_did_not_change():
    base = matrix(200, 100)
    left, values, right = torch.linalg.svd(base, full_matrices=False)
    again = (left * values) @ right
    assert not again.equal(base) and not matrix_change("w", base, again, RATIO).changed


@pytest.mark.parametrize("shape", [(24, 15), (24,)])
def test_what_is_not_two_matrices_of_one_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"^layer.weight: .*must be matrices of one shape"):
        matrix_change("layer.weight", matrix(), torch.ones(shape), RATIO)


def test_a_matrix_with_directions_of_no_length_is_compared_all_the_same():
    base = matrix(24, 16)
    base[:, 8:] = 0
    assert 0 < share(base, base + 0.1 * matrix(24, 16, seed=1)) <= 1
    assert matrix_change("w", torch.zeros(8, 8), matrix(8, 8), RATIO).share == 0.0


def rounded_change(within, size, dtype):
    """What becomes of a change of that size, in the free directions or in all, when the sum is rounded."""
    base = (matrix(256, 384) / 10).to(dtype)
    change = matrix(256, 384, seed=1)
    if within:
        _, _, free_left, free_right = directions(base.float())
        change = free_left @ (free_left.T @ change @ free_right) @ free_right.T
    change *= size * torch.linalg.norm(base.float()) / torch.linalg.norm(change)
    return matrix_change("w", base, (base.float() + change).to(dtype), RATIO)


@pytest.mark.parametrize("size", [3e-3, 1e-2, 0.1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_rounding_puts_into_the_kept_directions_is_no_leak_and_a_plain_change_is_one(size, dtype):
    kept, plain = rounded_change(True, size, dtype), rounded_change(False, size, dtype)
    assert kept.can_be_told and kept.leak < 0.02
    assert plain.can_be_told and plain.leak > 0.5
    # The estimate is right for the types that round coarsely; in float32 it is the trainer's arithmetic's.
    assert kept.share == pytest.approx(kept.rounding * kept.unlimited, rel=0.15) or dtype == torch.float32
    assert plain.share == pytest.approx(plain.unlimited, abs=0.03)


@pytest.mark.parametrize("within", [True, False])
def test_a_change_below_the_rounding_cannot_be_told(within):
    change = rounded_change(within, 5e-4, torch.bfloat16)
    assert change.changed and not change.can_be_told and change.dtype == "bfloat16"


def test_without_osft_the_share_is_that_of_the_kept_directions_of_the_shorter_side():
    assert matrix_change("w", matrix(48, 64), 1.1 * matrix(48, 64), 0.5).unlimited == pytest.approx(0.5**0.5)


def test_the_limited_matrices_are_those_of_the_given_kinds():
    layer = "model.layers.0."
    shapes = {
        layer + "self_attn.q_proj.weight": (4, 4),
        layer + "mlp.down_proj.weight": (2, 8, 4),
        "language_model.model.layers.11.mlp.down_proj.weight": (4, 8),
        layer + "self_attn.q_proj.bias": (4,),
        layer + "mlp.gate.weight": (4, 4),
        "model.embed_tokens.weight": (9, 4),
    }
    assert limited_matrices(shapes, KINDS) == [
        "language_model.model.layers.11.mlp.down_proj.weight",
        layer + "self_attn.q_proj.weight",
    ]


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


def test_two_models_are_compared_matrix_by_matrix(models):
    base, tuned, (free, leaking, same) = models
    changes = {change.name: change for change in ModelChanges(base, tuned, RATIO, KINDS)}
    assert sorted(changes) == [free, leaking, same]
    assert changes[free].leak < 0.01 < 0.99 < changes[leaking].share
    assert changes[leaking].leak > 0.9
    assert not changes[same].can_be_told


def test_the_order_is_mixed_and_always_the_same(models):
    base, tuned, names = models
    orders = [[change.name for change in ModelChanges(base, tuned, RATIO, KINDS)] for _ in range(2)]
    assert orders[0] == orders[1] == ModelChanges(base, tuned, RATIO, KINDS).names
    assert orders[0] != sorted(names)


def test_a_folder_without_weights_is_named(models, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no .safetensors file"):
        ModelChanges(models[0], tmp_path / "empty", RATIO, KINDS)


def test_models_without_a_common_matrix_are_refused(models, tmp_path):
    (tmp_path / "other").mkdir()
    save_file({"transformer.h.0.attn.c_attn.weight": matrix()}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(InputError, match="have no matrix in common of layers"):
        ModelChanges(models[0], tmp_path / "other", RATIO, KINDS)
