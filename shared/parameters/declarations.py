"""The training parameters, declared once: name, type, default, what is allowed, what it means, where it goes.

The stages, the sub-pipeline, the facade, the command line, the form in the compiled YAML and the README's table
come from here or are tested against it. First the contract's, then those that came later.
"""

from kfp_osft.shared.parameters.contract_parameters import TRAINING_PARAMETERS
from kfp_osft.shared.parameters.dataset_columns import parse_columns
from kfp_osft.shared.parameters.kubernetes_syntax import is_name, is_quantity
from kfp_osft.shared.parameters.parameter import Parameter
from kfp_osft.shared.parameters.trainer_parameters import TRAINER_PARAMETERS
from kfp_osft.shared.parameters.values import is_not_negative, is_positive, read_only_true, read_without_secret

#: Beyond the contract, and after its parameters wherever there is an order.
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
        is_positive,
    ),
    Parameter(
        "training_time_limit_minutes",
        int,
        0,
        "How long the training itself may take on a cluster before it is ended; 0 sets no limit.",
        "an integer of at least 0",
        "trainjob.time_limit_minutes",
        is_not_negative,
    ),
    Parameter(
        "training_queue_limit_minutes",
        int,
        0,
        "How long the TrainJob may wait for quota (Kueue), or be paused, before it is given up; 0 sets no limit.",
        "an integer of at least 0",
        "trainjob.queue_limit_minutes",
        is_not_negative,
    ),
    Parameter(
        "training_unattended_limit_minutes",
        int,
        60,
        "How long a training on a cluster goes on when nobody follows it any more, because the pod of its stage has "
        "died; then it saves its state and ends. 0 sets no limit.",
        "an integer of at least 0",
        "trainjob.unattended_limit_minutes",
        is_not_negative,
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
        read=read_only_true,
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
        is_not_negative,
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
        "Where the model is pushed in addition, after its evaluation if there is one.",
        "empty for nowhere, s3://bucket/prefix, hf://org/name or oci://registry/repository:tag",
        "",
        lambda value: not value or value.startswith(("s3://", "hf://", "oci://")),
        read=read_without_secret,
    ),
)

ALL_PARAMETERS = (*TRAINING_PARAMETERS, *EXTRA_PARAMETERS)
