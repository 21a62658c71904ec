"""How much memory a training needs, by the shapes of the model, and whether it can fit.

What lies in memory was read in mini-trainer 0.9: float32 parameters, their gradients and AdamW's two moments, all of
them sharded over the processes (FSDP2); each matrix that OSFT limits as its factors U, S and V, of which only the share
to train has gradients and moments; of each layer the input (activation checkpointing) and of one layer everything; the
logits with their gradients. The peaks that it was compared with are in tests/shared/training/test_memory.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.model.folder import config_value
from kfp_osft.shared.parameters.kubernetes_syntax import quantity_value
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.sizes import size_text

_FLOAT = 4
#: Bytes of the largest memory that one GPU has (NVIDIA B300 and AMD MI355X).
LARGEST_GPU = 288 << 30
# The training script, torchrun and the first worker with their libraries, on a CPU; each further worker.
_LIBRARIES, _WORKER = 1_900_000_000, 700_000_000
# What CUDA and its libraries take of a GPU.
_CUDA = 1_000_000_000
# The logits and their gradients.
_LOGITS = 2
# Of one layer, forward and backward: what attention and norms keep in multiples of the hidden size, and the MLP.
_ATTENTION, _MLP = 24, 8


class MemoryNeed(NamedTuple):
    """Bytes.

    Attributes:
        parameters: the base model's own, in float32.
        states: parameters, gradients and moments, over all processes together.
        microbatch: activations and logits of the tokens that one process takes at a time.
        tokens: those tokens.
    """

    parameters: int
    states: int
    microbatch: int
    tokens: int

    def of_process(self, processes: int) -> int:
        """The expected peak of the GPU of one of so many processes."""
        return _CUDA + self.states // processes + self.microbatch

    def on_cpu(self, processes: int, pods: int = 1) -> int:
        """The expected peak of a pod or computer without a GPU, over its processes."""
        here = -(-processes // pods)
        # The base model as rank 0 has read it: its memory is not given back.
        return _LIBRARIES + _WORKER * (here - 1) + self.parameters + self.states // pods + self.microbatch * here

    def least_on_cpu(self, pods: int = 1) -> int:
        """What a pod or computer without a GPU cannot do without, however short the rows."""
        return _LIBRARIES // 2 + self.states // pods


def memory_need(config: Mapping[str, Any], coverage: Coverage, ratio: float, tokens: int) -> MemoryNeed:
    """The need of a training.

    Args:
        config: the model's config.json.
        coverage: what OSFT limits.
        ratio: training_unfreeze_rank_ratio, 0 to 1.
        tokens: that one process takes at a time.
    """
    free = coverage.layers - coverage.limited + coverage.others
    trained = free + ratio * coverage.factors
    states = _FLOAT * (free + coverage.factors + 3 * trained)
    hidden, layers, vocabulary, inner = (
        next((value for name in names if isinstance(value := config_value(config, name), int)), 0)
        for names in (
            ("hidden_size", "n_embd"),
            ("num_hidden_layers", "n_layer"),
            ("vocab_size",),
            ("intermediate_size", "moe_intermediate_size", "n_inner"),
        )
    )
    of_token = hidden * (layers + _ATTENTION) + _MLP * inner + _LOGITS * vocabulary
    parameters = _FLOAT * (coverage.layers + coverage.others)
    return MemoryNeed(parameters, round(states), _FLOAT * of_token * tokens, tokens)


def check_pod(need: Mapping[str, int], limit: str | None, accelerators: int, pods: int) -> None:
    """Refuses a pod in which the training cannot fit, whatever its rows.

    Args:
        need: MemoryNeed as JSON; {} where it is not known.
        limit: the pod's limit of memory, a Kubernetes quantity; None for a pod without one.
        accelerators: GPUs of the pod.
        pods: training pods.

    Raises:
        InputError: naming what it needs, and what it has.
    """
    if not need or not limit:
        return
    known = MemoryNeed(**need)
    # A GPU's worker reads the model into the pod's memory first, at best in 16 bits.
    least = known.parameters // 2 if accelerators else known.least_on_cpu(pods)
    if quantity_value(limit) < least:
        takes = "loading the base model takes" if accelerators else "weights, gradients and optimizer states alone take"
        raise InputError(
            f"the pod's memory limit of {limit} cannot be enough: {takes} {size_text(least)}; raise "
            "training_resource_memory_per_worker"
        )
