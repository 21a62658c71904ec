import dataclasses
import inspect

import pytest

from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.parameters.contract_parameters import TRAINING_PARAMETERS
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.values import FSDP_SHARDING_STRATEGIES, LR_SCHEDULERS
from kfp_osft.shared.reporting.errors import InputError

# The contract's table: name, type, whether it is Optional, default.
CONTRACT = [
    ("training_base_model", str, False, "Qwen/Qwen2.5-1.5B-Instruct"),
    ("training_effective_batch_size", int, False, 128),
    ("training_max_tokens_per_gpu", int, False, 64000),
    ("training_max_seq_len", int, False, 8192),
    ("training_learning_rate", float, True, None),
    ("training_lr_warmup_steps", int, True, None),
    ("training_checkpoint_at_epoch", bool, True, None),
    ("training_num_epochs", int, True, None),
    ("training_data_output_dir", str, True, None),
    ("training_envs", str, False, ""),
    ("training_resource_cpu_per_worker", str, False, "8"),
    ("training_resource_gpu_per_worker", int, False, 1),
    ("training_resource_memory_per_worker", str, False, "32Gi"),
    ("training_resource_num_procs_per_worker", str, False, "auto"),
    ("training_resource_num_workers", int, False, 1),
    ("training_metadata_labels", str, False, ""),
    ("training_metadata_annotations", str, False, ""),
    ("training_unfreeze_rank_ratio", float, False, 0.25),
    ("training_osft_memory_efficient_init", bool, False, True),
    ("training_target_patterns", str, False, ""),
    ("training_seed", int, True, None),
    ("training_use_liger", bool, True, None),
    ("training_use_processed_dataset", bool, True, None),
    ("training_unmask_messages", bool, True, None),
    ("training_lr_scheduler", str, True, None),
    ("training_lr_scheduler_kwargs", str, False, ""),
    ("training_save_final_checkpoint", bool, True, None),
    ("training_fsdp_sharding_strategy", str, True, None),
]

# A value other than the default, and where it goes: (place, key, what arrives), or None for nowhere.
ARRIVALS = {
    "training_base_model": ("org/model", ("osft", "model_path", "org/model")),
    "training_effective_batch_size": (32, ("osft", "effective_batch_size", 32)),
    "training_max_tokens_per_gpu": (2048, ("osft", "max_tokens_per_gpu", 2048)),
    "training_max_seq_len": (512, ("osft", "max_seq_len", 512)),
    "training_learning_rate": (1e-4, ("osft", "learning_rate", 1e-4)),
    "training_lr_warmup_steps": (10, ("osft", "warmup_steps", 10)),
    "training_checkpoint_at_epoch": (True, ("osft", "checkpoint_at_epoch", True)),
    "training_num_epochs": (3, ("osft", "num_epochs", 3)),
    "training_data_output_dir": ("/data/tokens", ("osft", "data_output_dir", "/data/tokens")),
    "training_envs": ("NCCL_DEBUG=INFO,A=1", ("env", None, {"NCCL_DEBUG": "INFO", "A": "1"})),
    "training_resource_cpu_per_worker": ("4", ("trainjob", "cpu_per_worker", "4")),
    "training_resource_gpu_per_worker": (2, ("trainjob", "gpu_per_worker", 2)),
    "training_resource_memory_per_worker": ("16Gi", ("trainjob", "memory_per_worker", "16Gi")),
    "training_resource_num_procs_per_worker": ("4", ("trainjob", "procs_per_worker", 4)),
    "training_resource_num_workers": (2, ("trainjob", "num_workers", 2)),
    "training_metadata_labels": (
        "team=nlp,kueue.x-k8s.io/queue-name=q",
        ("trainjob", "labels", {"team": "nlp", "kueue.x-k8s.io/queue-name": "q"}),
    ),
    "training_metadata_annotations": ("note=any text: yes", ("trainjob", "annotations", {"note": "any text: yes"})),
    "training_unfreeze_rank_ratio": (0.5, ("osft", "unfreeze_rank_ratio", 0.5)),
    "training_osft_memory_efficient_init": (False, None),
    "training_target_patterns": (
        "self_attn.q_proj, mlp.up_proj,",
        ("osft", "target_patterns", ["self_attn.q_proj", "mlp.up_proj"]),
    ),
    "training_seed": (7, ("osft", "seed", 7)),
    "training_use_liger": (True, ("osft", "use_liger", True)),
    "training_use_processed_dataset": (True, ("osft", "use_processed_dataset", True)),
    "training_unmask_messages": (True, ("osft", "unmask_messages", True)),
    "training_lr_scheduler": ("linear", ("osft", "lr_scheduler", "linear")),
    "training_lr_scheduler_kwargs": (
        "num_cycles=2,min_lr=1e-6,power=0.5,flag=true,kind=1-sqrt",
        (
            "osft",
            "lr_scheduler_kwargs",
            {"num_cycles": 2, "min_lr": 1e-6, "power": 0.5, "flag": True, "kind": "1-sqrt"},
        ),
    ),
    "training_save_final_checkpoint": (False, ("osft", "save_final_checkpoint", False)),
    "training_fsdp_sharding_strategy": ("NO_SHARD", None),
    "training_runtime": ("my-runtime", ("trainjob", "runtime", "my-runtime")),
    "training_start_deadline_minutes": (5, ("trainjob", "start_deadline_minutes", 5)),
    "training_time_limit_minutes": (90, ("trainjob", "time_limit_minutes", 90)),
    "training_queue_limit_minutes": (20, ("trainjob", "queue_limit_minutes", 20)),
    "training_unattended_limit_minutes": (0, ("trainjob", "unattended_limit_minutes", 0)),
    "training_max_dropped_share": (0.5, ("data", "max_dropped_share", 0.5)),
    "training_show_sample": (False, ("data", "show_sample", False)),
    "training_resource_shared_memory_per_worker": ("2Gi", ("trainjob", "shared_memory_per_worker", "2Gi")),
    "training_min_osft_share": (0.1, ("data", "min_osft_share", 0.1)),
    "training_export_broken_model": (True, ("data", "export_broken_model", True)),
    "training_trust_remote_code": (True, ("osft", "trust_remote_code", True)),
    "dataset_columns": (
        "user=question,assistant=answer",
        ("data", "columns", {"user": "question", "assistant": "answer"}),
    ),
    "dataset_subset": (500, ("data", "subset", 500)),
    "training_validation_split": (0.1, ("data", "validation_split", 0.1)),
    "training_validation_every": ("epoch", ("data", "validation_every", "epoch")),
    "training_save_best": (True, ("osft", "save_best_val_loss", True)),
    "training_optimizer_kwargs": ("eps=1e-6", ("osft", "optimizer_kwargs", {"eps": 1e-6})),
    "training_save_dtype": ("bfloat16", ("osft", "save_dtype", "bfloat16")),
    "training_block_size": (512, ("osft", "block_size", 512)),
    "training_report_to": ("wandb, mlflow", ("data", "report_to", ["mlflow", "wandb"])),
    "export_uri": ("s3://models/bot", None),
}

DEFAULTS = {
    "osft": {
        "model_path": "Qwen/Qwen2.5-1.5B-Instruct",
        "effective_batch_size": 128,
        "max_tokens_per_gpu": 64000,
        "max_seq_len": 8192,
        # Not mini-trainer's to choose: the contract says 5e-6 and 1.
        "learning_rate": 5e-6,
        "num_epochs": 1,
        "unfreeze_rank_ratio": 0.25,
    },
    "trainjob": {
        "cpu_per_worker": "8",
        "gpu_per_worker": 1,
        "memory_per_worker": "32Gi",
        "procs_per_worker": "auto",
        "num_workers": 1,
        "labels": {},
        "annotations": {},
        "runtime": "training-hub",
        "start_deadline_minutes": 30,
        "time_limit_minutes": 0,
        "shared_memory_per_worker": "auto",
        "queue_limit_minutes": 0,
        "unattended_limit_minutes": 60,
    },
    "data": {
        "max_dropped_share": 0.2,
        "show_sample": True,
        "min_osft_share": 0.5,
        "export_broken_model": False,
        "subset": 0,
        "validation_split": 0.0,
    },
    "env": {},
}

OPTIONAL = [name for name, _, optional, _ in CONTRACT if optional]


def places(given):
    checked = check_parameters(given)
    return {"osft": checked.osft, "trainjob": checked.trainjob, "data": checked.data, "env": checked.env}


def typed(value):
    """The value with its types, since 1 == True == 1.0."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value), value


def problems(given):
    with pytest.raises(InputError) as error:
        check_parameters(given)
    return str(error.value).splitlines()


def test_the_declared_parameters_are_the_contracts_in_its_order_with_its_types_and_defaults():
    declared = [
        (parameter.name, parameter.type, parameter.optional, typed(parameter.default))
        for parameter in TRAINING_PARAMETERS
    ]
    assert declared == [(name, type_, optional, typed(default)) for name, type_, optional, default in CONTRACT]


def test_what_extends_the_contract_comes_after_it_and_every_parameter_is_followed_to_its_place():
    assert ALL_PARAMETERS[: len(TRAINING_PARAMETERS)] == TRAINING_PARAMETERS
    assert set(ARRIVALS) == {parameter.name for parameter in ALL_PARAMETERS}


def test_without_any_value_the_defaults_arrive_and_what_is_optional_is_not_passed():
    assert typed(places({})) == typed(DEFAULTS)
    assert check_parameters({}).warnings == ()


@pytest.mark.parametrize("name", ARRIVALS)
def test_a_parameter_reaches_its_place_with_its_type_and_changes_nothing_else(name):
    given, arrival = ARRIVALS[name]
    expected = {place: dict(values) for place, values in DEFAULTS.items()}
    if arrival:
        place, key, value = arrival
        if key is None:
            expected[place] = value
        else:
            expected[place][key] = value
        assert expected != DEFAULTS
    assert typed(places({name: given})) == typed(expected)


@pytest.mark.parametrize("name", OPTIONAL)
def test_none_means_not_passed(name):
    assert typed(places({name: None})) == typed(DEFAULTS)


@pytest.mark.parametrize("name", [name for name, type_, optional, _ in CONTRACT if optional and type_ is str])
def test_an_empty_string_means_not_passed(name):
    assert typed(places({name: ""})) == typed(DEFAULTS)


@pytest.mark.parametrize("name", ["training_lr_warmup_steps", "training_seed"])
@pytest.mark.parametrize("unset", [-1, -1.0])
def test_minus_one_means_not_passed_where_the_component_says_so(name, unset):
    assert typed(places({name: unset})) == typed(DEFAULTS)


def test_minus_one_epochs_is_an_error_because_the_components_default_is_one():
    assert problems({"training_num_epochs": -1})[0].startswith("training_num_epochs=-1 is not allowed")


def test_the_defaults_of_the_component_pass_nothing_more():
    given = {parameter.name: parameter.component_default for parameter in ALL_PARAMETERS}
    assert typed(places(given)) == typed(DEFAULTS)


def test_a_component_has_no_default_that_kfp_local_cannot_leave_out():
    # kfp.local calls int(None) for an int without a default.
    assert [p.name for p in ALL_PARAMETERS if p.type is int and type(p.component_default) is not int] == []


def test_a_pipelines_defaults_are_concrete_and_of_the_parameters_type():
    assert [p.name for p in ALL_PARAMETERS if type(p.pipeline_default) is not p.type] == []


def test_a_pipelines_defaults_warn_about_nothing():
    assert check_parameters({p.name: p.pipeline_default for p in ALL_PARAMETERS}).warnings == ()


@pytest.mark.parametrize("name", [name for name, _, optional, _ in CONTRACT if not optional])
def test_none_for_a_parameter_that_is_not_optional_is_an_error_that_names_it(name):
    assert problems({name: None})[0].startswith(f"{name}=None is not of type ")


@pytest.mark.parametrize(("given", "value"), [(128.0, 128), (1, 1)])
def test_a_whole_float_is_taken_for_an_integer_because_kfps_numbers_are_doubles(given, value):
    osft = check_parameters({"training_effective_batch_size": given}).osft
    assert typed(osft["effective_batch_size"]) == typed(value)


def test_an_integer_is_taken_for_a_float():
    osft = check_parameters({"training_learning_rate": 1, "training_unfreeze_rank_ratio": 0}).osft
    assert typed(osft["learning_rate"]) == typed(1.0) and typed(osft["unfreeze_rank_ratio"]) == typed(0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training_effective_batch_size", True),
        ("training_effective_batch_size", "3"),
        ("training_effective_batch_size", 3.5),
        ("training_effective_batch_size", float("nan")),
        ("training_effective_batch_size", float("inf")),
        ("training_effective_batch_size", [3]),
        ("training_seed", False),
        ("training_seed", ""),
        ("training_num_epochs", "1"),
        ("training_learning_rate", "5e-6"),
        ("training_learning_rate", True),
        ("training_learning_rate", ""),
        ("training_unfreeze_rank_ratio", False),
        ("training_unfreeze_rank_ratio", "0.25"),
        ("training_use_liger", 1),
        ("training_use_liger", "true"),
        ("training_use_liger", 0.0),
        ("training_osft_memory_efficient_init", "false"),
        ("training_base_model", 3),
        ("training_lr_scheduler", True),
        ("training_envs", {"A": "1"}),
        ("training_target_patterns", ["q_proj"]),
        ("training_resource_cpu_per_worker", 8),
        ("training_resource_num_procs_per_worker", 2),
        ("training_runtime", None),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_parameter_value_and_type(name, value):
    (message,) = problems({name: value})
    type_ = next(parameter.type for parameter in ALL_PARAMETERS if parameter.name == name)
    assert message.startswith(f"{name}={value!r} is not of type {type_.__name__}; allowed: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training_base_model", ""),
        ("training_base_model", "  "),
        ("training_effective_batch_size", 0),
        ("training_effective_batch_size", -8),
        ("training_max_tokens_per_gpu", 0),
        ("training_max_seq_len", 20),
        ("training_max_seq_len", -1),
        ("training_learning_rate", 0.0),
        ("training_learning_rate", -1e-5),
        ("training_learning_rate", -1.0),
        ("training_learning_rate", float("nan")),
        ("training_learning_rate", float("inf")),
        ("training_lr_warmup_steps", -2),
        ("training_num_epochs", 0),
        ("training_resource_cpu_per_worker", "0"),
        ("training_resource_cpu_per_worker", ""),
        ("training_resource_gpu_per_worker", -1),
        ("training_resource_memory_per_worker", "32 GB"),
        ("training_resource_num_procs_per_worker", "0"),
        ("training_resource_num_procs_per_worker", "gpu"),
        ("training_resource_num_procs_per_worker", "1.5"),
        ("training_resource_num_workers", 0),
        ("training_unfreeze_rank_ratio", -0.01),
        ("training_unfreeze_rank_ratio", 1.01),
        ("training_unfreeze_rank_ratio", float("nan")),
        ("training_seed", -2),
        ("training_seed", 2**32),
        ("training_lr_scheduler", "cosin"),
        ("training_lr_scheduler", "reduce_lr_on_plateau"),
        ("training_fsdp_sharding_strategy", "FULL"),
        ("training_fsdp_sharding_strategy", "full_shard"),
        ("training_runtime", "Training Hub"),
        ("training_runtime", ""),
        ("training_start_deadline_minutes", 0),
        ("training_time_limit_minutes", -1),
        ("training_queue_limit_minutes", -1),
        ("training_unattended_limit_minutes", -1),
        ("training_max_dropped_share", 1.5),
        ("training_resource_shared_memory_per_worker", "half"),
        ("dataset_subset", -1),
        ("training_validation_split", 1.0),
        ("training_validation_split", -0.1),
        ("training_validation_every", "0"),
        ("training_validation_every", "1.5"),
        ("training_validation_every", "epochs"),
        ("training_save_dtype", "int8"),
        ("training_block_size", 1),
        ("training_report_to", "mlflow,comet"),
    ],
)
def test_a_value_that_is_not_allowed_is_an_error_that_says_what_is(name, value):
    (message,) = problems({name: value})
    allowed = next(parameter.allowed for parameter in ALL_PARAMETERS if parameter.name == name)
    assert message == f"{name}={value!r} is not allowed; allowed: {allowed}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training_max_seq_len", 21),
        ("training_unfreeze_rank_ratio", 0.0),
        ("training_unfreeze_rank_ratio", 1.0),
        ("training_seed", 0),
        ("training_seed", 2**32 - 1),
        ("training_lr_warmup_steps", 0),
        ("training_resource_gpu_per_worker", 0),
        ("training_resource_num_procs_per_worker", "1"),
        ("training_resource_num_procs_per_worker", "auto"),
    ],
)
def test_the_edge_of_what_is_allowed_is_allowed(name, value):
    check_parameters({name: value})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("training_envs", "A=1,B", "training_envs: an item has no '='"),
        ("training_envs", "1A=1", "'1A' is no environment variable name"),
        ("training_envs", "A-B=1", "'A-B' is no environment variable name"),
        ("training_envs", "PET_NNODES=2", "'PET_NNODES' is set by the training runtime"),
        ("training_envs", "WORLD_SIZE=2", "'WORLD_SIZE' is set by the training runtime"),
        ("training_envs", "OSFT_TRAIN_ARGS=x", "'OSFT_TRAIN_ARGS' is set by the training runtime"),
        ("training_metadata_labels", "team=a b", "'team=a b' is no Kubernetes label"),
        ("training_metadata_labels", "a/b/c=d", "'a/b/c=d' is no Kubernetes label"),
        ("training_metadata_annotations", "two words=x", "'two words' is no Kubernetes annotation key"),
        ("training_lr_scheduler_kwargs", "num_cycles", "training_lr_scheduler_kwargs: an item has no '='"),
    ],
)
def test_a_list_that_cannot_be_used_is_an_error_that_names_the_item(name, text, says):
    (message,) = problems({name: text})
    assert message.startswith(name) and says in message


@pytest.mark.parametrize(
    "key",
    [
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "wandb_api_key",
        "OCI_PULL_SECRET_MODEL_DOWNLOAD",
        "DB_PASSWORD",
        "TOKEN",
    ],
)
def test_a_secret_in_training_envs_is_refused_and_not_repeated(key):
    (message,) = problems({"training_envs": f"A=1,{key}=hf_do_not_tell"})
    assert f"'{key}' looks like a secret" in message and "hf_do_not_tell" not in message


@pytest.mark.parametrize("key", ["TOKENIZERS_PARALLELISM", "HF_HOME", "NCCL_DEBUG", "MAX_TOKENS"])
def test_an_ordinary_name_in_training_envs_is_no_secret(key):
    assert check_parameters({"training_envs": f"{key}=1"}).env == {key: "1"}


@pytest.mark.parametrize("text", [" ", ", ,", ""])
def test_blank_target_patterns_leave_the_choice_to_the_model_family(text):
    assert "target_patterns" not in check_parameters({"training_target_patterns": text}).osft


def test_an_unknown_name_is_an_error():
    assert problems({"training_lerning_rate": 1e-5}) == ["training_lerning_rate is not a training parameter"]


def test_all_problems_are_told_at_once():
    lines = problems(
        {
            "training_seed": "1",
            "training_unfreeze_rank_ratio": 2.0,
            "training_envs": "A",
            "training_num_epoch": 1,
            "training_lr_scheduler": "linear",
            "training_metadata_labels": "a=b c",
        }
    )
    names = [line.split("=")[0].split(":")[0].split(" ")[0] for line in lines]
    assert sorted(names) == [
        "training_envs",
        "training_metadata_labels",
        "training_num_epoch",
        "training_seed",
        "training_unfreeze_rank_ratio",
    ]


def test_memory_efficient_init_off_is_a_warning_that_says_what_runs():
    (warning,) = check_parameters({"training_osft_memory_efficient_init": False}).warnings
    assert warning.startswith("training_osft_memory_efficient_init=False has no effect")
    assert "always" in warning


@pytest.mark.parametrize("strategy", [name for name in FSDP_SHARDING_STRATEGIES if name != "FULL_SHARD"])
def test_a_known_sharding_strategy_that_will_not_run_is_a_warning_that_says_what_runs(strategy):
    (warning,) = check_parameters({"training_fsdp_sharding_strategy": strategy}).warnings
    assert warning.startswith(f"training_fsdp_sharding_strategy={strategy} has no effect")
    assert "FULL_SHARD" in warning


def test_full_shard_is_what_runs_and_warns_about_nothing():
    assert check_parameters({"training_fsdp_sharding_strategy": "FULL_SHARD"}).warnings == ()


@pytest.mark.parametrize(("at_epoch", "warns"), [(None, True), (False, True), (True, False)])
def test_a_training_that_saves_no_checkpoint_is_a_warning(at_epoch, warns):
    given = {"training_save_final_checkpoint": False, "training_checkpoint_at_epoch": at_epoch}
    warnings = check_parameters(given).warnings
    assert [warning.split("=")[0] for warning in warnings] == ["training_save_final_checkpoint"] * warns


def test_every_description_says_what_is_allowed():
    for parameter in ALL_PARAMETERS:
        assert parameter.description == f"{parameter.doc} Allowed: {parameter.allowed}."


# What the installed training libraries say. Their import takes seconds.

# How training_hub.osft's names are called in mini-trainer's TrainingArgs.
RENAMED = {
    "use_liger": "use_liger_kernels",
    "warmup_steps": "num_warmup_steps",
    "target_patterns": "osft_target_patterns",
    "unfreeze_rank_ratio": "osft_unfreeze_rank_ratio",
    "model_path": "model_name_or_path",
    "num_epochs": "max_epochs",
    "effective_batch_size": "batch_size",
}
# Used by training_hub itself, on the rows.
DATA_KEYS = {"max_seq_len", "data_output_dir", "use_processed_dataset", "unmask_messages"}
OSFT_KEYS = {
    parameter.name: parameter.goes_to.removeprefix("osft.")
    for parameter in TRAINING_PARAMETERS
    if parameter.goes_to.startswith("osft.")
}


@pytest.fixture(scope="module")
def training_hub():
    from kfp_osft.shared.model.torchvision import hide_broken_torchvision

    hide_broken_torchvision()
    return pytest.importorskip("training_hub")


@pytest.fixture
def trainer_receives(training_hub, monkeypatch, tmp_path):
    """Calls the real training_hub.osft up to mini-trainer's door; returns what trainer and data would get."""
    import mini_trainer
    from training_hub.algorithms.osft import MiniTrainerOSFTBackend

    for name in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT", "PET_NNODES", "PET_NPROC_PER_NODE"):
        monkeypatch.delenv(name, raising=False)

    def receive(given):
        received = {}

        def run_training(torch_args, train_args):
            received["train_args"] = train_args

        def process_data(self, **arguments):
            received["data"] = arguments
            return "tokens.jsonl"

        # execute_training imports run_training from mini_trainer when it is called.
        monkeypatch.setattr(mini_trainer, "run_training", run_training)
        monkeypatch.setattr(MiniTrainerOSFTBackend, "_process_data", process_data)
        osft = check_parameters(given).osft
        training_hub.osft(data_path="rows.jsonl", ckpt_output_dir=str(tmp_path), **osft)
        return received["train_args"], received["data"]

    return receive


@pytest.mark.slow
@pytest.mark.parametrize("name", OSFT_KEYS)
def test_training_hub_declares_the_keyword_that_a_parameter_goes_to(training_hub, name):
    # One that is not declared vanishes in its **kwargs without a word.
    parameter = inspect.signature(training_hub.osft).parameters.get(OSFT_KEYS[name])
    assert parameter is not None and parameter.kind is not inspect.Parameter.VAR_KEYWORD


@pytest.mark.slow
@pytest.mark.parametrize("name", OSFT_KEYS)
def test_the_trainer_receives_a_parameter_with_its_type(trainer_receives, name):
    given, (_, key, expected) = ARRIVALS[name]
    train_args, data = trainer_receives({name: given})
    untouched_args, untouched_data = trainer_receives({})
    if key in DATA_KEYS:
        key = {"data_output_dir": "output_dir"}.get(key, key)
        received, untouched = data[key], untouched_data[key]
    else:
        received, untouched = (getattr(args, RENAMED.get(key, key)) for args in (train_args, untouched_args))
    assert typed(received) == typed(expected)
    assert received != untouched


@pytest.mark.slow
def test_the_trainer_receives_the_contracts_defaults(trainer_receives):
    train_args, data = trainer_receives({})
    assert (train_args.osft, train_args.learning_rate, train_args.max_epochs, train_args.batch_size) == (
        True,
        5e-6,
        1,
        128,
    )
    assert (train_args.max_tokens_per_gpu, train_args.osft_unfreeze_rank_ratio, data["max_seq_len"]) == (
        64000,
        0.25,
        8192,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [p.name for p in TRAINING_PARAMETERS if p.optional and not p.always_passed and p.name in OSFT_KEYS]
)
def test_what_a_pipeline_shows_as_default_is_what_the_library_does_when_the_parameter_is_left_out(
    trainer_receives, name
):
    parameter = next(parameter for parameter in TRAINING_PARAMETERS if parameter.name == name)
    left_out = trainer_receives({name: None})
    given = trainer_receives({name: parameter.pipeline_default})
    # training_hub passes None on where the row processing has a default of its own.
    assert [_without_none(dataclasses.asdict(given[0])), _falsy_as_none(given[1])] == [
        _without_none(dataclasses.asdict(left_out[0])),
        _falsy_as_none(left_out[1]),
    ]


def _without_none(values):
    return {key: value for key, value in values.items() if value is not None}


def _falsy_as_none(values):
    return {key: value or None for key, value in values.items()}


@pytest.mark.slow
def test_memory_efficient_init_and_sharding_strategy_have_no_place_in_the_trainer(training_hub):
    from mini_trainer import TrainingArgs

    keywords = set(inspect.signature(training_hub.osft).parameters)
    fields = {field.name for field in dataclasses.fields(TrainingArgs)}
    assert not [name for name in keywords | fields if "memory_efficient" in name or "fsdp" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_a_scheduler_that_is_allowed_can_be_driven_as_mini_trainer_does(name):
    torch = pytest.importorskip("torch")
    from kfp_osft.shared.model.torchvision import hide_broken_torchvision

    hide_broken_torchvision()
    from transformers import get_scheduler

    required = {
        "cosine_with_min_lr": {"min_lr": 1e-7},
        "cosine_warmup_with_min_lr": {"min_lr": 1e-7},
        "warmup_stable_decay": {"num_decay_steps": 2},
    }
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=1, num_training_steps=5, scheduler_specific_kwargs=required.get(name, {})
    )
    rates = []
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    assert 0 < max(rates) <= 1.0001e-5


@pytest.mark.slow
def test_the_schedulers_left_out_want_a_metric_at_every_step_and_no_others_exist():
    pytest.importorskip("torch")
    from kfp_osft.shared.model.torchvision import hide_broken_torchvision

    hide_broken_torchvision()
    from transformers import SchedulerType

    assert {kind.value for kind in SchedulerType} - set(LR_SCHEDULERS) == {"reduce_lr_on_plateau", "greedy"}


@pytest.mark.slow
def test_the_sharding_strategies_are_torchs():
    pytest.importorskip("torch")
    from torch.distributed.fsdp import ShardingStrategy

    assert set(FSDP_SHARDING_STRATEGIES) == {strategy.name for strategy in ShardingStrategy}


def test_more_variables_than_a_trainjob_takes_are_an_error_that_says_how_many():
    (message,) = problems({"training_envs": ",".join(f"NAME_{number}=1" for number in range(121))})
    assert message == "training_envs has 121 variables; allowed: 120 at most"
