"""Settings of the trainer beyond the contract's: validation, optimizer, raw documents, experiment trackers."""

from collections.abc import Callable
from typing import Any

from kfp_osft.shared.parameters.environment import TRACKERS
from kfp_osft.shared.parameters.key_values import as_number_or_bool, parse_key_values
from kfp_osft.shared.parameters.parameter import Parameter
from kfp_osft.shared.reporting.errors import InputError

#: training_validation_every: after each epoch, rather than after so many steps.
EACH_EPOCH = "epoch"
#: mini-trainer's names and torch.optim.AdamW's limits: allowed values in words, and the check.
_OPTIMIZER: dict[str, tuple[str, Callable[[float], bool]]] = {
    "beta1": ("a number from 0 to below 1", lambda value: 0 <= value < 1),
    "beta2": ("a number from 0 to below 1", lambda value: 0 <= value < 1),
    "eps": ("a number above 0", lambda value: value > 0),
    "weight_decay": ("a number of at least 0", lambda value: value >= 0),
}
# torch's, in which mini-trainer can save.
_SAVE_DTYPES = ("float32", "bfloat16", "float16")


def _optimizer_kwargs(name: str, value: str) -> dict[str, float] | None:
    found = {}
    for key, text in parse_key_values(name, value).items():
        if key not in _OPTIMIZER:
            raise InputError(f"{name}: '{key}' is not an argument of the optimizer; allowed: {', '.join(_OPTIMIZER)}")
        number = as_number_or_bool(text)
        allowed, is_allowed = _OPTIMIZER[key]
        if isinstance(number, bool) or not isinstance(number, int | float) or not is_allowed(number):
            raise InputError(f"{name}: {key}={text} is not allowed; allowed: {allowed}")
        found[key] = float(number)
    return found or None


def _is_validation_every(value: str) -> bool:
    return value in ("", EACH_EPOCH) or (value.isascii() and value.isdecimal() and int(value) >= 1)


def _names(value: str) -> list[str]:
    return sorted({name.strip() for name in value.split(",") if name.strip()})


def _trackers(name: str, value: str) -> list[str] | None:
    return _names(value) or None


def _if_set(name: str, value: Any) -> Any:
    return value or None


TRAINER_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "training_validation_every",
        str,
        "",
        "When to measure the loss on the held-out rows; never when empty.",
        f"{EACH_EPOCH}, or a number of steps",
        "data.validation_every",
        _is_validation_every,
        read=_if_set,
    ),
    Parameter(
        "training_save_best",
        bool,
        False,
        "Save the model with the lowest validation loss, and export it.",
        "true or false",
        "osft.save_best_val_loss",
        read=_if_set,
    ),
    Parameter(
        "training_optimizer_kwargs",
        str,
        "",
        "Arguments of AdamW.",
        "key=val,key=val of " + ", ".join(_OPTIMIZER),
        "osft.optimizer_kwargs",
        read=_optimizer_kwargs,
    ),
    Parameter(
        "training_save_dtype",
        str,
        "",
        "Data type of the saved weights; the base model's when empty.",
        ", ".join(_SAVE_DTYPES),
        "osft.save_dtype",
        lambda value: value in ("", *_SAVE_DTYPES),
        read=_if_set,
    ),
    Parameter(
        "training_block_size",
        int,
        0,
        "Train on raw documents, in blocks of so many tokens; 0 trains on conversations.",
        "0, or an integer from 2 to training_max_tokens_per_gpu",
        "osft.block_size",
        lambda value: value == 0 or value >= 2,
        read=_if_set,
    ),
    Parameter(
        "training_report_to",
        str,
        "",
        "Trackers that the training itself reports to.",
        ", ".join(TRACKERS) + ", separated by commas",
        "data.report_to",
        lambda value: set(_names(value)) <= {*TRACKERS},
        read=_trackers,
    ),
)
