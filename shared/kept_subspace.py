"""How much of a fine-tuned model's change lies in the directions that OSFT promises to leave alone.

OSFT (Nayak et al. 2025, arXiv:2504.07097) splits each projection matrix by its singular values. The
directions of the largest ones are frozen, and updates are kept orthogonal to them on both sides. So of a
matrix's change D, U_k^T D and D V_k should be zero but for rounding.
"""

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kfp_osft.shared.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# The names by which mini-trainer picks the matrices (osft_utils.MODEL_CONFIGS) of Llama, Mistral, Qwen,
# Gemma, Granite and Phi, and of models that it does not know.
PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.qkv_proj",
    "linear_attn.out_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "mlp.gate_up_proj",
)
# A float32 SVD, put together again, differs from its matrix by up to this share of its norm.
_ROUNDING = 1e-5


def kept_rank(shape: tuple[int, ...], unfreeze_rank_ratio: float) -> int:
    """Number of singular directions that mini-trainer freezes in a matrix of this shape, by its arithmetic.

    Source: mini_trainer 0.9.0, osft_utils.auto_generate_target_osft_config and _build_osft_kwargs. There an
    unfreeze_rank_ratio of 1.0 leaves a kept ratio of 0, which counts as not given and becomes 0.5.
    """
    kept_ratio = (1.0 - unfreeze_rank_ratio) or 0.5
    full_rank = min(shape)
    return min(math.floor(full_rank * kept_ratio), full_rank - 1)


def leaked_share(base: "Tensor", tuned: "Tensor", unfreeze_rank_ratio: float) -> float:
    """Share of one matrix's change that lies inside the kept subspace of `base`: 0.0 (none) to 1.0 (all).

    The larger of |U_k^T D| and |D V_k| over |D| (Frobenius norms), for D = tuned - base and the first k
    singular directions of base. 0.0 if the matrix did not change, or by no more than rounding. A model saved
    in bfloat16 is rounded to 3 digits in all directions; the share counts that too, and small changes drown.

    Args:
        base, tuned: matrices of one shape, of any floating dtype; computed in float32, as mini-trainer does.
        unfreeze_rank_ratio: the training's, 0.0 to 1.0.

    Raises:
        InputError: the shapes differ or are not those of a matrix.
    """
    import torch

    if base.shape != tuned.shape or base.ndim != 2:
        shapes = f"{[*base.shape]} and {[*tuned.shape]}"
        raise InputError(f"base and tuned have the shapes {shapes}; they must be matrices of one shape")
    base, tuned = base.to(torch.float32), tuned.to(torch.float32)
    change = tuned - base
    size = torch.linalg.norm(change)
    if size <= _ROUNDING * torch.linalg.norm(base):
        return 0.0
    k = kept_rank(tuple(base.shape), unfreeze_rank_ratio)
    left, _, right = torch.linalg.svd(base, full_matrices=False)
    inside = max(torch.linalg.norm(left[:, :k].T @ change), torch.linalg.norm(change @ right[:k].T))
    return min(1.0, float(inside / size))


def trained_projections(names: Iterable[str]) -> list[str]:
    """Of a model's tensor names, the weights that OSFT splits, sorted. Others it trains without any limit."""
    return sorted(
        name for name in names if name.endswith(".weight") and any(pattern in name for pattern in PROJECTIONS)
    )


def leaked_shares(
    base_dir: Path, tuned_dir: Path, unfreeze_rank_ratio: float, sample: int | None = None
) -> dict[str, float]:
    """leaked_share() of each projection of a model, by tensor name; reads one matrix of each model at a time.

    Args:
        base_dir: the model before training, in the format of transformers; one or several .safetensors files.
        tuned_dir: the model after it; its dtype may be another.
        unfreeze_rank_ratio: the training's, 0.0 to 1.0.
        sample: look at that many projections only, always the same ones; None: at all. Each costs an SVD,
            whose time grows with the third power of the matrix's size.

    Raises:
        InputError: a folder holds no .safetensors file, or the two models have no projection in common.
    """
    base_files, tuned_files = _tensor_files(Path(base_dir)), _tensor_files(Path(tuned_dir))
    names = trained_projections(base_files.keys() & tuned_files.keys())
    if not names:
        raise InputError(
            f"{base_dir} and {tuned_dir} have no projection in common; known are {', '.join(PROJECTIONS)}"
        )
    if sample is not None and sample < len(names):
        names = sorted(random.Random(0).sample(names, sample))
    shares = {}
    for name in names:
        base, tuned = _read_tensor(base_files[name], name), _read_tensor(tuned_files[name], name)
        shares[name] = leaked_share(base, tuned, unfreeze_rank_ratio)
    return shares


def _tensor_files(model_dir: Path) -> dict[str, Path]:
    from safetensors import safe_open

    files = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            files.update(dict.fromkeys(tensors.keys(), path))
    if not files:
        raise InputError(f"model folder {model_dir} holds no .safetensors file")
    return files


def _read_tensor(path: Path, name: str) -> "Tensor":
    from safetensors import safe_open

    with safe_open(path, framework="pt") as tensors:
        return tensors.get_tensor(name)
