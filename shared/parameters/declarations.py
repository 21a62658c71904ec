"""The training parameters, declared once: name, type, default, what is allowed, what it means, where it goes.

The stages, the sub-pipeline, the facade, the command line, the form in the compiled YAML and the README's table
come from here or are tested against it. Names, types and defaults are the contract's.
"""

import math
from typing import Any

from kfp_osft.shared.parameters.dataset_columns import parse_columns
from kfp_osft.shared.parameters.environment import holds_secret, is_runtimes_own
from kfp_osft.shared.parameters.key_values import as_number_or_bool, parse_key_values
from kfp_osft.shared.parameters.kubernetes_syntax import (
    is_env_name,
    is_label_key,
    is_label_value,
    is_name,
    is_positive_quantity,
    is_quantity,
)
from kfp_osft.shared.parameters.parameter import Parameter
from kfp_osft.shared.parameters.trainer_parameters import TRAINER_PARAMETERS
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


def _positive(value: int | float) -> bool:
    return 0 < value < float("inf")


def _not_negative(value: int) -> bool:
    return value >= 0


def _not_blank(value: str) -> bool:
    return bool(value.strip())


def _procs_per_worker(name: str, value: str) -> str | int:
    return value if value == "auto" else int(value)


def _patterns(name: str, value: str) -> list[str] | None:
    patterns = [pattern.strip() for pattern in value.split(",") if pattern.strip()]
    return patterns or None


def _without_secret(name: str, value: str) -> str:
    if (seen := redacted(value)) != value:
        raise InputError(
            f"{name}={seen}: a password or token in it would be shown to everybody; give credentials as HF_TOKEN, "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or OCI_PULL_SECRET_MODEL_DOWNLOAD in the environment, on a "
            "cluster from a Secret"
        )
    return value


def _environment(name: str, value: str) -> dict[str, str]:
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


def _unfreeze_rank_ratio(name: str, value: float) -> float:
    # mini-trainer takes a kept ratio of 0 for one that is not given, and keeps half. The next number below 1 keeps no
    # direction of any matrix.
    return math.nextafter(1.0, 0.0) if value == 1 else value


def _only_true(name: str, value: bool) -> bool | None:
    return value or None


def _labels(name: str, value: str) -> dict[str, str]:
    pairs = parse_key_values(name, value)
    for key, text in pairs.items():
        if not is_label_key(key) or not is_label_value(text):
            raise InputError(
                f"{name}: '{key}={text}' is no Kubernetes label; keys and values have at most 63 letters, "
                "digits, '-', '_', '.', the key perhaps a DNS prefix and '/'"
            )
    return pairs


def _annotations(name: str, value: str) -> dict[str, str]:
    pairs = parse_key_values(name, value)
    for key in pairs:
        if not is_label_key(key):
            raise InputError(
                f"{name}: '{key}' is no Kubernetes annotation key; it has at most 63 letters, digits, "
                "'-', '_', '.', and perhaps a DNS prefix and '/'"
            )
    return pairs


def _scheduler_kwargs(name: str, value: str) -> dict[str, Any] | None:
    return {key: as_number_or_bool(text) for key, text in parse_key_values(name, value).items()} or None


TRAINING_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "training_base_model",
        str,
        "Qwen/Qwen2.5-1.5B-Instruct",
        "Base model to fine-tune.",
        "a Hugging Face model id (perhaps with @ and a revision), the path of a model folder, "
        "oci://registry/repository with :tag or @sha256:digest, or s3://bucket/prefix",
        "osft.model_path",
        _not_blank,
        read=_without_secret,
    ),
    Parameter(
        "training_effective_batch_size",
        int,
        128,
        "Samples per optimizer step, over all GPUs and workers.",
        "an integer of at least 1",
        "osft.effective_batch_size",
        _positive,
    ),
    Parameter(
        "training_max_tokens_per_gpu",
        int,
        64000,
        "Tokens put on one GPU at a time (memory cap); lower it when a GPU runs out of memory.",
        "an integer of at least 1",
        "osft.max_tokens_per_gpu",
        _positive,
    ),
    Parameter(
        "training_max_seq_len",
        int,
        8192,
        "Length limit of a sample in tokens; a sample that reaches it is dropped.",
        "an integer of at least 21 (shorter samples than 20 tokens are not trained on)",
        "osft.max_seq_len",
        lambda value: value >= 21,
    ),
    Parameter(
        "training_learning_rate",
        float,
        None,
        "Peak learning rate.",
        "a number above 0",
        "osft.learning_rate",
        _positive,
        when_left_out=5e-6,
        always_passed=True,
    ),
    Parameter(
        "training_lr_warmup_steps",
        int,
        None,
        "Optimizer steps over which the learning rate rises to its peak.",
        "an integer of at least 0",
        "osft.warmup_steps",
        _not_negative,
        when_left_out=0,
    ),
    Parameter(
        "training_checkpoint_at_epoch",
        bool,
        None,
        "Save a checkpoint after each epoch.",
        "true or false",
        "osft.checkpoint_at_epoch",
        when_left_out=False,
    ),
    Parameter(
        "training_num_epochs",
        int,
        None,
        "Passes over the data.",
        "an integer of at least 1",
        "osft.num_epochs",
        _positive,
        when_left_out=1,
        always_passed=True,
    ),
    Parameter(
        "training_data_output_dir",
        str,
        None,
        "Folder for the tokenized data; a folder below the checkpoints when left out.",
        "a path that the stages and the training can write",
        "osft.data_output_dir",
        when_left_out="",
    ),
    Parameter(
        "training_envs",
        str,
        "",
        "Environment variables of the training; no secrets (they would show in the run's arguments).",
        "KEY=VAL,KEY=VAL",
        "env",
        read=_environment,
    ),
    Parameter(
        "training_resource_cpu_per_worker",
        str,
        "8",
        "CPU cores of a training pod.",
        "a Kubernetes quantity above 0, as 8 or 500m",
        "trainjob.cpu_per_worker",
        is_positive_quantity,
    ),
    Parameter(
        "training_resource_gpu_per_worker",
        int,
        1,
        "GPUs of a training pod; 0 trains on CPU.",
        "an integer of at least 0",
        "trainjob.gpu_per_worker",
        _not_negative,
    ),
    Parameter(
        "training_resource_memory_per_worker",
        str,
        "32Gi",
        "Memory of a training pod.",
        "a Kubernetes quantity above 0, as 32Gi",
        "trainjob.memory_per_worker",
        is_positive_quantity,
    ),
    Parameter(
        "training_resource_num_procs_per_worker",
        str,
        "auto",
        "Training processes in a pod; auto is one a GPU.",
        "auto, or an integer of at least 1",
        "trainjob.procs_per_worker",
        lambda value: value == "auto" or (value.isdecimal() and int(value) >= 1),
        read=_procs_per_worker,
    ),
    Parameter(
        "training_resource_num_workers",
        int,
        1,
        "Training pods.",
        "an integer of at least 1",
        "trainjob.num_workers",
        _positive,
    ),
    Parameter(
        "training_metadata_labels",
        str,
        "",
        "Labels of the training pods.",
        "key=value,key=value",
        "trainjob.labels",
        read=_labels,
    ),
    Parameter(
        "training_metadata_annotations",
        str,
        "",
        "Annotations of the training pods.",
        "key=value,key=value",
        "trainjob.annotations",
        read=_annotations,
    ),
    Parameter(
        "training_unfreeze_rank_ratio",
        float,
        0.25,
        "Share of the singular directions that may change, the least important ones, in each matrix that OSFT limits.",
        "a number from 0 (one direction of each matrix) to 1 (all: plain fine-tuning)",
        "osft.unfreeze_rank_ratio",
        lambda value: 0 <= value <= 1,
        read=_unfreeze_rank_ratio,
    ),
    Parameter(
        "training_osft_memory_efficient_init",
        bool,
        True,
        "Kept for compatibility: current mini-trainer always initializes memory-efficiently.",
        "true; false only warns",
        "",
    ),
    Parameter(
        "training_target_patterns",
        str,
        "",
        "Which weight matrices OSFT limits, by parts of their names; all other weights train too, without limit. The "
        "model family's own when empty.",
        "names separated by commas, as self_attn.q_proj,mlp.up_proj",
        "osft.target_patterns",
        read=_patterns,
    ),
    Parameter(
        "training_seed",
        int,
        None,
        "Random seed.",
        "an integer from 0 to 4294967295",
        "osft.seed",
        lambda value: 0 <= value < 2**32,
        when_left_out=42,
    ),
    Parameter(
        "training_use_liger",
        bool,
        None,
        "Use Liger kernels (GPU only).",
        "true or false",
        "osft.use_liger",
        when_left_out=False,
    ),
    Parameter(
        "training_use_processed_dataset",
        bool,
        None,
        "The dataset holds input_ids and labels already.",
        "true or false",
        "osft.use_processed_dataset",
        when_left_out=False,
    ),
    Parameter(
        "training_unmask_messages",
        bool,
        None,
        "Learn from all turns except the system's, not from the assistant's only.",
        "true or false",
        "osft.unmask_messages",
        when_left_out=False,
    ),
    Parameter(
        "training_lr_scheduler",
        str,
        None,
        "How the learning rate goes down.",
        "one of " + ", ".join(LR_SCHEDULERS),
        "osft.lr_scheduler",
        lambda value: value in LR_SCHEDULERS,
        when_left_out="cosine",
    ),
    Parameter(
        "training_lr_scheduler_kwargs",
        str,
        "",
        "Further arguments of the scheduler; numbers and booleans become such.",
        "key=val,key=val",
        "osft.lr_scheduler_kwargs",
        read=_scheduler_kwargs,
    ),
    Parameter(
        "training_save_final_checkpoint",
        bool,
        None,
        "Save a checkpoint at the end; without it and without one per epoch there is no model to export.",
        "true or false",
        "osft.save_final_checkpoint",
        when_left_out=True,
    ),
    Parameter(
        "training_fsdp_sharding_strategy",
        str,
        None,
        "Kept for compatibility: mini-trainer always shards fully.",
        "FULL_SHARD; " + ", ".join(FSDP_SHARDING_STRATEGIES[1:]) + " only warn",
        "",
        lambda value: value in FSDP_SHARDING_STRATEGIES,
        when_left_out="FULL_SHARD",
    ),
)

#: Parameters that the contract does not have; the facade takes them after the contract's own.
EXTRA_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "training_runtime",
        str,
        "training-hub",
        "Name of the TrainingRuntime or ClusterTrainingRuntime that the TrainJob uses.",
        "a Kubernetes object name",
        "trainjob.runtime",
        is_name,
    ),
    Parameter(
        "training_start_deadline_minutes",
        int,
        30,
        "How long the training pods may take to start, scheduling and image pulls included, before the TrainJob "
        "is given up; waiting for quota (Kueue) does not count.",
        "an integer of at least 1",
        "trainjob.start_deadline_minutes",
        _positive,
    ),
    Parameter(
        "training_time_limit_minutes",
        int,
        0,
        "How long the training itself may take on a cluster before it is ended; 0 sets no limit.",
        "an integer of at least 0",
        "trainjob.time_limit_minutes",
        _not_negative,
    ),
    Parameter(
        "training_queue_limit_minutes",
        int,
        0,
        "How long the TrainJob may wait for quota (Kueue), or be paused, before it is given up; 0 sets no limit.",
        "an integer of at least 0",
        "trainjob.queue_limit_minutes",
        _not_negative,
    ),
    Parameter(
        "training_unattended_limit_minutes",
        int,
        60,
        "How long a training on a cluster goes on when nobody follows it any more, because the pod of its stage has "
        "died; then it saves its state and ends. 0 sets no limit.",
        "an integer of at least 0",
        "trainjob.unattended_limit_minutes",
        _not_negative,
    ),
    Parameter(
        "training_max_dropped_share",
        float,
        0.2,
        "Share of the rows that may be dropped for their length before preprocess refuses the dataset.",
        "a number from 0 (none) to 1 (any)",
        "data.max_dropped_share",
        lambda value: 0 <= value <= 1,
    ),
    Parameter(
        "training_show_sample",
        bool,
        True,
        "Show one sample in the log and the report, decoded, its part with loss marked.",
        "true or false",
        "data.show_sample",
    ),
    Parameter(
        "training_resource_shared_memory_per_worker",
        str,
        "auto",
        "Size of /dev/shm in a training pod, in memory, through which NCCL connects several GPUs; auto is half of the "
        "pod's memory, and none for a single process.",
        "auto, 0 for what the container runtime gives (64 MiB), or a Kubernetes quantity as 16Gi",
        "trainjob.shared_memory_per_worker",
        lambda value: value == "auto" or is_quantity(value),
    ),
    Parameter(
        "training_min_osft_share",
        float,
        0.5,
        "Share of the weights in the layers' matrices that OSFT must limit, else preprocess refuses the base model.",
        "a number from 0 (any) to 1 (all)",
        "data.min_osft_share",
        lambda value: 0 <= value <= 1,
    ),
    Parameter(
        "training_export_broken_model",
        bool,
        False,
        "Export the model even if the training broke it (no gradient any more, or a loss above that of guessing).",
        "true or false",
        "data.export_broken_model",
    ),
    Parameter(
        "training_trust_remote_code",
        bool,
        False,
        "Run Python code that lies beside the base model, as some families need it; only for models whose authors you "
        "trust.",
        "true or false",
        "osft.trust_remote_code",
        read=_only_true,
    ),
    Parameter(
        "dataset_columns",
        str,
        "",
        "Which columns of the dataset are what, where they have other names than the known formats of rows.",
        "field=column,field=column, as user=question,assistant=answer,system=context or messages=dialog",
        "data.columns",
        read=parse_columns,
    ),
    Parameter(
        "dataset_subset",
        int,
        0,
        "Train on so many of the dataset's rows, held-out ones included, chosen by training_seed; 0 takes all.",
        "an integer of at least 0",
        "data.subset",
        _not_negative,
    ),
    Parameter(
        "training_validation_split",
        float,
        0.0,
        "Share of the rows to hold out from the training, chosen by training_seed; rows with the same content stay "
        "together.",
        "a number from 0 (none) to below 1",
        "data.validation_split",
        lambda value: 0 <= value < 1,
    ),
    *TRAINER_PARAMETERS,
    Parameter(
        "export_uri",
        str,
        "",
        "Where export_model pushes the model in addition.",
        "empty for nowhere, s3://bucket/prefix, hf://org/name or oci://registry/repository:tag",
        "",
        lambda value: not value or value.startswith(("s3://", "hf://", "oci://")),
        read=_without_secret,
    ),
)

ALL_PARAMETERS = (*TRAINING_PARAMETERS, *EXTRA_PARAMETERS)
