"""How much of a fine-tuned model's change lies in the directions that OSFT promises to leave alone, and what changed
beside the matrices that it limits.

OSFT (Nayak et al. 2025, arXiv:2504.07097) splits each projection matrix by its singular values. The
directions of the largest ones are frozen, and updates are kept orthogonal to them on both sides. So of a
matrix's change D, U_k^T D and D V_k should be zero but for rounding.
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kfp_osft.shared.knowledge.coverage import kind_of
from kfp_osft.shared.reporting.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A float32 SVD, put together again, differs from its matrix by up to this share of its norm; usually by less.
_ARITHMETIC = 1e-5
_USUAL_ARITHMETIC = 2e-6
# On trainings saved in bfloat16 the share was 0.6 to 0.98 of what is expected of rounding alone.
_MARGIN = 1.1
# Of a tensor that OSFT does not limit.
_SAMPLE_NUMBERS = 1 << 20
# Above this share of rounding in a change, one inside the kept directions looks like one outside.
_MOST_ROUNDING = 0.75


class MatrixChange(NamedTuple):
    """What became of one trained matrix.

    Attributes:
        name: of the tensor.
        size: norm of the change over that of the matrix (Frobenius norms, as all below).
        share: of the change's norm, that inside the kept directions: the larger of |U_k^T D| and |D V_k|
            over |D|, 0 (none) to 1 (all).
        rounding: of the change's norm, what the trainer's float32 arithmetic and rounding to the type of the saved
            model make, on average; above 1 where the change is smaller than that.
        unlimited: the share of a change that heeds no limits, as a plain fine-tuning's.
        dtype: type that the tuned matrix is saved in, as "bfloat16".
    """

    name: str
    size: float
    share: float
    rounding: float
    unlimited: float
    dtype: str

    @property
    def changed(self) -> bool:
        """Whether it changed by more than the arithmetic's rounding."""
        return self.size > _ARITHMETIC

    @property
    def can_be_told(self) -> bool:
        """Whether rounding leaves enough of the change to tell where it lies."""
        return self.changed and self.rounding < _MOST_ROUNDING

    @property
    def leak(self) -> float:
        """The share of the change's norm inside the kept directions beyond what rounding puts there, 0 to 1.

        Rounding errors point everywhere, so the part `unlimited` of them lies in the kept directions; norms
        of what is independent add by their squares.
        """
        return math.sqrt(max(0.0, self.share**2 - (_MARGIN * self.rounding * self.unlimited) ** 2))


def kept_rank(shape: tuple[int, ...], unfreeze_rank_ratio: float) -> int:
    """Number of singular directions that mini-trainer freezes in a matrix of this shape, by its arithmetic.

    Source: mini_trainer 0.9.0, osft_utils.auto_generate_target_osft_config. There an unfreeze_rank_ratio of exactly 1.0
    would count as not given and keep half; our trainings pass the next number below it, which keeps nothing.
    """
    full_rank = min(shape)
    return min(math.floor(full_rank * (1.0 - unfreeze_rank_ratio)), full_rank - 1)


def matrix_change(name: str, base: "Tensor", tuned: "Tensor", unfreeze_rank_ratio: float) -> MatrixChange:
    """Compares a matrix before and after the training; on the first GPU where there is one.

    Args:
        name: of the tensor.
        base, tuned: matrices of one shape, of any floating dtype; tuned's says how it was rounded.
        unfreeze_rank_ratio: the training's, 0.0 to 1.0.

    Raises:
        InputError: the shapes differ or are not those of a matrix.
    """
    import torch

    if base.shape != tuned.shape or base.ndim != 2:
        shapes = f"{[*base.shape]} and {[*tuned.shape]}"
        raise InputError(f"{name}: base and tuned have the shapes {shapes}; they must be matrices of one shape")
    dtype = tuned.dtype
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base, tuned = base.to(device, torch.float32), tuned.to(device, torch.float32)
    # Wide ones: singular values and norms are the same, left and right change places.
    if base.shape[0] > base.shape[1]:
        base, tuned = base.T, tuned.T
    rank = kept_rank(tuple(base.shape), unfreeze_rank_ratio)
    unlimited = math.sqrt(rank / base.shape[0])
    change, norm = tuned - base, torch.linalg.norm(base)
    size = torch.linalg.norm(change)
    noise = torch.hypot(_rounding_norm(tuned, dtype), _USUAL_ARITHMETIC * norm)
    shared = {"unlimited": unlimited, "dtype": str(dtype).removeprefix("torch.")}
    if size <= _ARITHMETIC * norm:
        return MatrixChange(name, float(size / norm) if norm else 0.0, 0.0, 1.0, **shared)
    left, right = _largest_directions(base, rank)
    inside = max(torch.linalg.norm(left.T @ change), torch.linalg.norm(change @ right))
    return MatrixChange(
        name, float(size / norm) if norm else math.inf, min(1.0, float(inside / size)), float(noise / size), **shared
    )


class FreeChange(NamedTuple):
    """What became of the weights of one kind that OSFT does not limit.

    Attributes:
        kind: as kind_of gives it.
        tensors: how many there are.
        size: norm of the change over that of the weights, in a sample.
    """

    kind: str
    tensors: int
    size: float


def limited_matrices(shapes: Mapping[str, Sequence[int]], kinds: Iterable[str]) -> list[str]:
    """Of a model's tensors, the matrices that OSFT splits, sorted. All others it trains without limit.

    Args:
        shapes: of all tensors by name.
        kinds: Coverage.kinds of the model.
    """
    wanted = set(kinds)
    return sorted(name for name, shape in shapes.items() if len(shape) == 2 and kind_of(name) in wanted)


class ModelChanges:
    """Compares the matrices that OSFT limits in two models, one matrix of each in memory at a time.

    Each comparison costs an eigendecomposition, whose time grows with the third power of the matrix's shorter
    side: 15 s for 4096 on two CPU cores. So large models are sampled, in an order that is always the same.

    Args:
        base_dir: the model before training, in the format of transformers; one or several .safetensors files.
        tuned_dir: the model after it; its dtype may be another.
        unfreeze_rank_ratio: the training's, 0.0 to 1.0.
        kinds: of the matrices that OSFT limits, as Coverage has them.

    Attributes:
        names: of all limited matrices, in the order in which they are compared.

    Raises:
        InputError: a folder holds no .safetensors file, or the two models have no limited matrix in common.
    """

    def __init__(self, base_dir: Path, tuned_dir: Path, unfreeze_rank_ratio: float, kinds: Sequence[str]) -> None:
        self._ratio = unfreeze_rank_ratio
        self._base, self._tuned = _tensors(base_dir), _tensors(tuned_dir)
        common = {name: shape for name, (_, shape) in self._base.items() if name in self._tuned}
        self.names = limited_matrices(common, kinds)
        if not self.names:
            raise InputError(f"{base_dir} and {tuned_dir} have no matrix in common of {', '.join(kinds)}")
        self._free: dict[str, list[str]] = {}
        for name in sorted(common.keys() - set(self.names)):
            self._free.setdefault(kind_of(name), []).append(name)
        random.Random(0).shuffle(self.names)

    def free_changes(self) -> list[FreeChange]:
        """The kinds of weights that OSFT does not limit and that changed, the largest change first.

        Of each kind two tensors are looked at, and of each of those 4 MiB at most.
        """
        found = []
        for kind, names in self._free.items():
            size = max(self._sampled_change(name) for name in {names[0], names[-1]})
            if size > _ARITHMETIC:
                found.append(FreeChange(kind, len(names), size))
        return sorted(found, key=lambda change: -change.size)

    def _sampled_change(self, name: str) -> float:
        import torch

        base, tuned = (_read_sample(tensors[name][0], name) for tensors in (self._base, self._tuned))
        if base.shape != tuned.shape or not base.is_floating_point():
            return 0.0
        base, tuned = base.to(torch.float32), tuned.to(torch.float32)
        norm = float(torch.linalg.norm(base))
        size = float(torch.linalg.norm(tuned - base))
        return size / norm if norm else math.inf if size else 0.0

    def __iter__(self) -> Iterator[MatrixChange]:
        for name in self.names:
            base, tuned = (_read_tensor(tensors[name][0], name) for tensors in (self._base, self._tuned))
            yield matrix_change(name, base, tuned, self._ratio)


def _largest_directions(matrix: "Tensor", rank: int) -> tuple["Tensor", "Tensor"]:
    """The singular vectors of the `rank` largest singular values of a wide matrix, left and right, as columns.

    By the eigenvectors of matrix @ matrix.T in float64: several times quicker than an SVD, and exact for the
    largest values, which are the ones kept.
    """
    import torch

    wide = matrix.to(torch.float64)
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    squares, left = squares.flip(0)[:rank], vectors.flip(1)[:, :rank]
    # Directions without a length have no right side.
    real = squares > torch.finfo(torch.float64).eps * len(wide) * squares[:1]
    squares, left = squares[real], left[:, real]
    right = wide.T @ left / squares.sqrt()
    return left.to(torch.float32), right.to(torch.float32)


def _rounding_norm(rounded: "Tensor", dtype: "torch.dtype") -> "Tensor":
    """Norm of the errors that rounding to a dtype made, on average: evenly spread over the spacing of its numbers."""
    import torch

    _, exponent = torch.frexp(rounded)
    spacing = torch.ldexp(torch.full_like(rounded, torch.finfo(dtype).eps), exponent - 1)
    return torch.linalg.norm(spacing) / math.sqrt(12)


def _tensors(model_dir: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """File and shape of each tensor."""
    from safetensors import safe_open

    found = {}
    for path in sorted(Path(model_dir).glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            found |= {name: (path, tuple(tensors.get_slice(name).get_shape())) for name in tensors.keys()}  # noqa: SIM118
    if not found:
        raise InputError(f"model folder {model_dir} holds no .safetensors file")
    return found


def _read_sample(path: Path, name: str) -> "Tensor":
    """The first rows of a tensor, _SAMPLE_NUMBERS at most (one row at least)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as tensors:
        tensor = tensors.get_slice(name)
        shape = tensor.get_shape()
        if math.prod(shape) <= _SAMPLE_NUMBERS:
            return tensors.get_tensor(name)
        return tensor[: max(1, _SAMPLE_NUMBERS // math.prod(shape[1:]))]


def _read_tensor(path: Path, name: str) -> "Tensor":
    from safetensors import safe_open

    with safe_open(path, framework="pt") as tensors:
        return tensors.get_tensor(name)
