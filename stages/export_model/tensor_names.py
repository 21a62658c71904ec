"""The tensors of a trained model under the base model's names.

mini-trainer saves what the model holds in memory, which is not what the Hub has: buffers that the model class computes
(0.6.1 to 0.9.0 register them as persistent), tied weights under both names, and, with transformers 5, all experts of a
layer in one tensor (transformers' conversion_mapping.py; its save_pretrained would undo that).
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

HEAD = "lm_head.weight"
_EMBEDDING = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|embed_in)\.weight")
_BUFFER = re.compile(r"(?:.*\.)?(?:\w*inv_freq|embed_scale)")

# Of one expert: w1 and gate_proj are the first half of gate_up_proj's rows, w3 and up_proj the second.
_EXPERT = re.compile(r"(?P<block>.+)\.experts\.(?P<expert>\d+)\.(?P<matrix>\w+)\.weight")
_GATE_UP, _DOWN = "gate_up_proj", "down_proj"
_PARTS = {
    "w1": (_GATE_UP, 0),
    "w3": (_GATE_UP, 1),
    "w2": (_DOWN, None),
    "gate_proj": (_GATE_UP, 0),
    "up_proj": (_GATE_UP, 1),
    "down_proj": (_DOWN, None),
}
_MIXTRAL_MATRICES, _QWEN_MATRICES = ("w1", "w3", "w2"), ("gate_proj", "up_proj", "down_proj")

# The Hub's name and the one in memory of transformers 5.
_RENAMED = (
    (".block_sparse_moe.input_linear.weight", ".block_sparse_moe.experts.gate_up_proj"),
    (".block_sparse_moe.output_linear.weight", ".block_sparse_moe.experts.down_proj"),
    (".block_sparse_moe.router.layer.weight", ".block_sparse_moe.router.weight"),
    (".block_sparse_moe.gate.weight", ".mlp.gate.weight"),
    (".block_sparse_moe.gate.weight", ".mlp.router.weight"),
)
# The model inside a language model, which some folders hold without its head.
_PREFIXES = ("model.", "transformer.")

# For a base model whose names cannot be read: families whose experts are one by one on the Hub.
_LIKE_MIXTRAL = ("mixtral", "minimax", "minimax_m2", "phimoe")
_LIKE_QWEN = (
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
    "olmoe",
    "flex_olmo",
    "deepseek_v2",
    "deepseek_v3",
    "glm4_moe",
    "dots1",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
    "exaone_moe",
)


class Tensor(NamedTuple):
    """A tensor in a file.

    Attributes:
        dtype: as safetensors calls it: F32, BF16, ...
        shape: its dimensions.
        file: where it is.
        offset: of its first byte in the file.
        size: in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int


class Named(NamedTuple):
    """What in_base_form found.

    Attributes:
        tensors: to publish, by name.
        left_out: names of the trained model's that are not published: buffers, and copies of tied weights.
        of_base: names in `tensors` that the training did not have; they are the base model's own.
        missing: names of the base model's that neither the training has nor a file at hand.
        is_untied: the base model's head is its embedding, and the training made two of them.
        is_understood: False where the names are the trained model's, because they do not fit the base model's.
    """

    tensors: dict[str, Tensor]
    left_out: list[str]
    of_base: list[str]
    missing: list[str]
    is_untied: bool
    is_understood: bool


def in_base_form(
    trained: Mapping[str, Tensor],
    base_names: Iterable[str],
    base: Mapping[str, Tensor],
    *,
    model_type: str,
    is_tied: bool | None,
    are_equal: Callable[[Tensor, Tensor], bool],
) -> Named:
    """The trained tensors by the base model's names, where those are known, else by the rules of its family.

    Args:
        trained: of the checkpoint.
        base_names: all names of the base model; none where they are not known.
        base: those of the base model's tensors whose files are at hand.
        model_type: the trained config's.
        is_tied: its tie_word_embeddings; None where it does not say.
        are_equal: whether two tensors hold the same bytes.
    """
    tied = _tied_head(trained, is_tied, are_equal)
    names = list(base_names)
    if not names:
        return _by_family(trained, model_type, tied)
    found: dict[str, Tensor] = {}
    used: dict[str, set[tuple[int, int]]] = {name: set() for name in trained}
    for name in names:
        if match := _find(name, trained):
            source, found[name] = match
            used[source].add((found[name].offset, found[name].size))
    if tied and HEAD in names and HEAD not in found:
        found[HEAD] = trained[tied]
    # All parts of a stack of experts must have a name.
    left_out = [name for name, parts in used.items() if sum(size for _, size in parts) != trained[name].size]
    untied = HEAD in left_out and not tied
    if untied:
        left_out.remove(HEAD)
        found[HEAD] = trained[HEAD]
    if any(not _BUFFER.fullmatch(name) and name != HEAD for name in left_out):
        return _by_family(trained, model_type, tied)._replace(is_understood=False)
    absent = [name for name in names if name not in found]
    of_base = [name for name in absent if name in base]
    return Named(
        {**found, **{name: base[name] for name in of_base}},
        left_out,
        of_base,
        [name for name in absent if name not in base],
        untied,
        True,
    )


def _find(name: str, trained: Mapping[str, Tensor]) -> tuple[str, Tensor] | None:
    """The trained tensor, with its name, that the Hub has under this one; or the part of it."""
    renamed = (name.removesuffix(hub) + memory for hub, memory in _RENAMED if name.endswith(hub))
    for each in (name, *renamed, *(prefix + name for prefix in _PREFIXES)):
        if each in trained:
            return each, trained[each]
    if expert := _EXPERT.fullmatch(name):
        matrix, half = _PARTS.get(expert["matrix"], ("", None))
        block = expert["block"]
        for each in (block, re.sub(r"\.block_sparse_moe$", ".mlp", block)):
            stack = trained.get(source := f"{each}.experts.{matrix}")
            if stack and len(stack.shape) == 3 and int(expert["expert"]) < stack.shape[0]:
                return source, _part(stack, int(expert["expert"]), half)
    return None


def _part(stack: Tensor, expert: int, half: int | None) -> Tensor:
    """One expert's matrix of a stack [experts, rows, columns]: all of its rows, or one half of them."""
    experts, rows, columns = stack.shape
    halves = 1 if half is None else 2
    size = stack.size // experts // halves
    offset = stack.offset + (expert * halves + (half or 0)) * size
    return stack._replace(shape=(rows // halves, columns), offset=offset, size=size)


def _tied_head(
    trained: Mapping[str, Tensor], is_tied: bool | None, are_equal: Callable[[Tensor, Tensor], bool]
) -> str | None:
    """The name of the embedding that is the head too; None where the head is a tensor of its own.

    A config that does not say has its class's default (True for Gemma, False for Llama): the bytes tell.
    """
    embedding = next((name for name in trained if _EMBEDDING.fullmatch(name)), None)
    if embedding is None or is_tied is False:
        return None
    head = trained.get(HEAD)
    if head is None:
        return embedding if is_tied else None
    same_kind = (head.dtype, head.shape) == (trained[embedding].dtype, trained[embedding].shape)
    return embedding if same_kind and are_equal(head, trained[embedding]) else None


def _by_family(trained: Mapping[str, Tensor], model_type: str, tied: str | None) -> Named:
    """Without the buffers and the copy of a tied embedding, the experts one by one where the family has them so."""
    tensors: dict[str, Tensor] = {}
    left_out = []
    for name, tensor in trained.items():
        if _BUFFER.fullmatch(name) or (name == HEAD and tied):
            left_out.append(name)
        else:
            tensors |= _hub_parts(name, tensor, model_type)
    return Named(tensors, left_out, [], [], False, True)


def _hub_parts(name: str, tensor: Tensor, model_type: str) -> dict[str, Tensor]:
    stack = re.fullmatch(rf"(.+)\.experts\.({_GATE_UP}|{_DOWN})", name)
    like_mixtral = model_type in _LIKE_MIXTRAL
    if stack and len(tensor.shape) == 3 and (like_mixtral or model_type in _LIKE_QWEN):
        gate, up, down = _MIXTRAL_MATRICES if like_mixtral else _QWEN_MATRICES
        halves = {gate: 0, up: 1} if stack[2] == _GATE_UP else {down: None}
        return {
            f"{_hub_block(stack[1], model_type)}.experts.{expert}.{matrix}.weight": _part(tensor, expert, half)
            for expert in range(tensor.shape[0])
            for matrix, half in halves.items()
        }
    if like_mixtral or model_type.startswith("granitemoe"):
        for hub, memory in _RENAMED:
            if name.endswith(memory):
                return {name.removesuffix(memory) + hub: tensor}
    return {name: tensor}


def _hub_block(block: str, model_type: str) -> str:
    return re.sub(r"\.mlp$", ".block_sparse_moe", block) if model_type in _LIKE_MIXTRAL else block


def floating_dtype(tensors: Iterable[Tensor]) -> str | None:
    """The type of most of the numbers, as torch calls it; None where that is none of float64, 32, 16 and bfloat16."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    numbers: dict[str, int] = {}
    for tensor in tensors:
        numbers[tensor.dtype] = numbers.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return names.get(max(numbers, key=lambda dtype: numbers[dtype], default=""))
