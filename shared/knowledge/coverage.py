"""How much of a model OSFT limits: mini-trainer's rule applied to the model's structure, without its weights."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kfp_osft.shared.knowledge.family_patterns import family_patterns, mini_trainer_folder
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.reporting.errors import InputError

if TYPE_CHECKING:
    import torch

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_MOST_KINDS_TOLD = 4


class Coverage(NamedTuple):
    """What OSFT limits in a model; counts are parameters (numbers), tied weights once.

    Attributes:
        limited: in the matrices that OSFT splits.
        layers: in all matrices of the layers, fused experts included; without embeddings and the output layer.
        others: embeddings, output layer, norms and biases, which always train without limit.
        patterns: parts of names by which the matrices were picked.
        kinds: the split matrices as kind_of gives them.
        free_kinds: the layers' other matrices, the largest in sum first.
        factors: in the factors U, S and V of the matrices that OSFT splits.
    """

    limited: int
    layers: int
    others: int
    patterns: list[str]
    kinds: list[str]
    free_kinds: list[str]
    factors: int = 0

    @property
    def share(self) -> float:
        """Of the layers' weights, the share that OSFT limits: 0 to 1."""
        return self.limited / self.layers if self.layers else 0.0

    def describe(self) -> str:
        """A sentence for the log and the model card."""
        text = (
            f"OSFT limits {percent(self.share)} of the weights in the layers' matrices ({self.limited:,} of "
            f"{self.layers:,})"
        )
        if self.free_kinds:
            text += f"; trained without limit are {self.free_kinds_in_words()}"
        text += f"; embeddings, output layer, norms and biases ({self.others:,} parameters) always train without limit"
        return text

    def free_kinds_in_words(self) -> str:
        """The first few of free_kinds."""
        kinds = [kind.removesuffix(".weight") for kind in self.free_kinds]
        more = f" and {len(kinds) - _MOST_KINDS_TOLD} more" if len(kinds) > _MOST_KINDS_TOLD else ""
        return ", ".join(kinds[:_MOST_KINDS_TOLD]) + more

    def figures(self) -> dict[str, Any]:
        """As JSON; from_figures reads it."""
        return self._asdict()

    @classmethod
    def from_figures(cls, figures: Any) -> "Coverage | None":
        """What figures() gave; None for anything else."""
        try:
            return cls(**figures)
        except TypeError:
            return None


def kind_of(name: str) -> str:
    """A tensor's name with * for the numbers of layers and experts, from the list of layers on.

    "model.layers.3.mlp.up_proj.weight" and "language_model.model.layers.4.mlp.up_proj.weight" are both
    "layers.*.mlp.up_proj.weight".
    """
    kind = _NUMBER.sub("*", name)
    before, star, after = kind.partition(".*.")
    return f"{before.rpartition('.')[2]}{star}{after}" if star else kind


def percent(share: float) -> str:
    """Two digits, whatever the size; what is smaller than 0.005 % as such."""
    if 0 < share < 5e-5:
        return "<0.01%"
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.1%}" if share >= 0.01 else f"{share:.2%}"


def coverage_of(base_model: str, patterns: Sequence[str] = (), trust_remote_code: bool = False) -> Coverage:
    """What OSFT limits in a model; only its config is read.

    Args:
        base_model: a folder, or an id of the Hugging Face Hub.
        patterns: training_target_patterns; those of the family when empty.
        trust_remote_code: whether code beside the model may run.

    Raises:
        InputError: mini-trainer cannot train this kind of model, or a pattern matches nothing.
    """
    hide_broken_torchvision()
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base_model, trust_remote_code=trust_remote_code)
    model = _without_weights(base_model, config)
    used = list(patterns) or family_patterns(config.model_type)
    matrices, others = _layers_matrices(model)
    # mini_trainer.osft_utils.auto_generate_target_osft_config
    limited = {
        name: shape for name, shape in matrices.items() if len(shape) == 2 and any(pattern in name for pattern in used)
    }
    if patterns:
        _check_patterns(base_model, patterns, matrices)
    elif not limited:
        raise InputError(
            f"training_base_model={base_model}: OSFT would limit none of its weights, because mini-trainer knows no "
            f"matrices of the family {config.model_type} (it looks for {', '.join(used)}). Name those to limit with "
            f"training_target_patterns: {_names_of(matrices)}"
        )
    _check_linear(base_model, model, used)
    free = Counter()
    for name, shape in matrices.items():
        if name not in limited:
            free[kind_of(name)] += math.prod(shape)
    return Coverage(
        sum(map(math.prod, limited.values())),
        sum(map(math.prod, matrices.values())),
        others,
        used,
        sorted({kind_of(name) for name in limited}),
        [kind for kind, _ in free.most_common()],
        sum(min(shape) * (sum(shape) + 1) for shape in limited.values()),
    )


def _without_weights(base_model: str, config: Any) -> "torch.nn.Module":
    """The model on the meta device, of the class that mini-trainer takes (utils.get_model_class_from_config)."""
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as VISION

    text = getattr(config, "text_config", None)
    # mini-trainer trains the language model of a vision model since 0.8.
    takes_text = text is not None and (mini_trainer_folder() / "vlm_utils.py").is_file()
    model_class: Any
    of_class: Any
    if type(config) in CAUSAL and not (
        takes_text and "ForConditional" in getattr(CAUSAL[type(config)], "__name__", "")
    ):
        model_class, of_class = CAUSAL[type(config)], config
    elif text is not None and takes_text and type(text) in CAUSAL:
        model_class, of_class = CAUSAL[type(text)], text
    elif takes_text and type(config) in VISION:
        model_class, of_class = VISION[type(config)], config
    else:
        raise InputError(
            f"training_base_model={base_model}: mini-trainer cannot train models of the type {config.model_type}: "
            "transformers has no causal language model for it"
        )
    try:
        with torch.device("meta"):
            model = model_class(of_class)
    # Whatever a model's code raises; mini-trainer makes it the same way.
    except Exception as error:
        raise InputError(
            f"training_base_model={base_model}: mini-trainer cannot train models of the type {config.model_type}: "
            f"{type(error).__name__} on the meta device: {error}"
        ) from None
    _check_trainable(base_model, config.model_type, model)
    return model


def _check_trainable(base_model: str, model_type: str, model: "torch.nn.Module") -> None:
    """Refuses what mini-trainer would refuse after loading, or break on in the first step."""
    inner = getattr(model, "model", None)
    # mini_trainer.setup_model_for_training.wrap_fsdp2
    if not (
        hasattr(inner, "layers")
        or hasattr(getattr(inner, "language_model", None), "layers")
        or hasattr(getattr(model, "transformer", None), "h")
    ):
        raise InputError(
            f"training_base_model={base_model}: mini-trainer cannot train models of the type {model_type}: it looks "
            "for their layers in model.layers or transformer.h, and would end with 'Cannot find transformer block "
            "container'"
        )


def _check_linear(base_model: str, model: "torch.nn.Module", patterns: Sequence[str]) -> None:
    """Refuses matrices of other modules than nn.Linear: mini-trainer (osft_utils._factorized_linear) computes with the
    transposed weight, which breaks GPT-2's Conv1D in the first step or, where it is square, without a word."""
    import torch

    for name, parameter in model.named_parameters():
        if parameter.ndim != 2 or not any(pattern in name for pattern in patterns):
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(module, torch.nn.Linear):
            raise InputError(
                f"training_base_model={base_model}: OSFT cannot limit {kind_of(name)}, whose module is "
                f"{type(module).__name__}: mini-trainer computes as if it were a Linear. "
                f"training_target_patterns picks others (now {', '.join(patterns)})"
            )


def _layers_matrices(model: "torch.nn.Module") -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes of the layers' matrices by name, and the number of all other parameters."""
    import torch

    head = getattr(model, "get_output_embeddings")()  # noqa: B009 - a method of transformers' models
    embeddings = {
        parameter
        for module in (*model.modules(), head)
        if isinstance(module, torch.nn.Embedding) or (module is not None and module is head)
        for parameter in module.parameters()
    }
    matrices, others = {}, 0
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and parameter not in embeddings:
            matrices[name] = tuple(parameter.shape)
        else:
            others += parameter.numel()
    return matrices, others


def _check_patterns(base_model: str, patterns: Sequence[str], matrices: Mapping[str, tuple[int, ...]]) -> None:
    limited = [name for name, shape in matrices.items() if len(shape) == 2]
    unmatched = [pattern for pattern in patterns if not any(pattern in name for name in limited)]
    if not unmatched:
        return
    fused = [name for name, shape in matrices.items() if len(shape) > 2 and any(part in name for part in unmatched)]
    why = (
        f"; {kind_of(fused[0])} has {len(matrices[fused[0]])} dimensions, and OSFT splits matrices only"
        if fused
        else ""
    )
    raise InputError(
        f"training_target_patterns: {', '.join(unmatched)} matches no weight matrix of {base_model}{why}; "
        f"its matrices are {_names_of({name: matrices[name] for name in limited})}"
    )


def _names_of(matrices: Mapping[str, tuple[int, ...]]) -> str:
    kinds = sorted({kind_of(name).removesuffix(".weight") for name, shape in matrices.items() if len(shape) == 2})
    return ", ".join(kinds[:12])
