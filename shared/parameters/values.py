"""What values the training parameters may have, and what is read of them."""

import math
from typing import Any

from kfp_osft.shared.parameters.environment import holds_secret, is_runtimes_own
from kfp_osft.shared.parameters.key_values import as_number_or_bool, parse_key_values
from kfp_osft.shared.parameters.kubernetes_syntax import (
    is_env_name,
    is_label_key,
    is_label_value,
)
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.redaction import redacted

# A TrainJob takes 128 (Trainer 2.2 and later), ours among them.
_MOST_VARIABLES = 120
# Schedulers that mini-trainer can drive: transformers.get_scheduler's names, less those that want a metric at
# every step (reduce_lr_on_plateau, greedy), which it does not give them.
LR_SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
)
# torch.distributed.fsdp.ShardingStrategy
FSDP_SHARDING_STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "_HYBRID_SHARD_ZERO2")


def is_positive(value: int | float) -> bool:
    return 0 < value < float("inf")


def is_not_negative(value: int) -> bool:
    return value >= 0


def is_not_blank(value: str) -> bool:
    return bool(value.strip())


def read_procs_per_worker(name: str, value: str) -> str | int:
    return value if value == "auto" else int(value)


def read_patterns(name: str, value: str) -> list[str] | None:
    patterns = [pattern.strip() for pattern in value.split(",") if pattern.strip()]
    return patterns or None


def read_without_secret(name: str, value: str) -> str:
    if (seen := redacted(value)) != value:
        raise InputError(
            f"{name}={seen}: a password or token in it would be shown to everybody; give credentials as HF_TOKEN, "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or OCI_PULL_SECRET_MODEL_DOWNLOAD in the environment, on a "
            "cluster from a Secret"
        )
    return value


def read_environment(name: str, value: str) -> dict[str, str]:
    pairs = parse_key_values(name, value)
    if len(pairs) > _MOST_VARIABLES:
        raise InputError(f"{name} has {len(pairs)} variables; allowed: {_MOST_VARIABLES} at most")
    for key in pairs:
        if not is_env_name(key):
            raise InputError(
                f"{name}: '{key}' is no environment variable name; "
                "allowed are letters, digits and '_', not starting with a digit"
            )
        if is_runtimes_own(key):
            raise InputError(f"{name}: '{key}' is set by the training runtime and cannot be given")
        if holds_secret(key, pairs[key]):
            raise InputError(
                f"{name}: '{key}' looks like a secret, which an argument would show to everybody; "
                "give it as a Kubernetes Secret (kfp.kubernetes.use_secret_as_env), or in the "
                "environment of a local run"
            )
    return pairs


def read_unfreeze_rank_ratio(name: str, value: float) -> float:
    # mini-trainer takes a kept ratio of 0 for one that is not given, and keeps half. The next number below 1 keeps no
    # direction of any matrix.
    return math.nextafter(1.0, 0.0) if value == 1 else value


def read_only_true(name: str, value: bool) -> bool | None:
    return value or None


def read_labels(name: str, value: str) -> dict[str, str]:
    pairs = parse_key_values(name, value)
    for key, text in pairs.items():
        if not is_label_key(key) or not is_label_value(text):
            raise InputError(
                f"{name}: '{key}={text}' is no Kubernetes label; keys and values have at most 63 letters, "
                "digits, '-', '_', '.', the key perhaps a DNS prefix and '/'"
            )
    return pairs


def read_annotations(name: str, value: str) -> dict[str, str]:
    pairs = parse_key_values(name, value)
    for key in pairs:
        if not is_label_key(key):
            raise InputError(
                f"{name}: '{key}' is no Kubernetes annotation key; it has at most 63 letters, digits, "
                "'-', '_', '.', and perhaps a DNS prefix and '/'"
            )
    return pairs


def read_scheduler_kwargs(name: str, value: str) -> dict[str, Any] | None:
    return {key: as_number_or_bool(text) for key, text in parse_key_values(name, value).items()} or None
