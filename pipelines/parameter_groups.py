"""The training parameters in groups, for the form of the pipeline and the help of the command."""

from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.parameter import Parameter

BASIC, ROWS, TRAINING, OSFT, RESULTS, CLUSTER, UNUSED, EVALUATION = (
    "Basic",
    "Rows",
    "Training",
    "OSFT",
    "Results",
    "Cluster",
    "Compatibility",
    "Evaluation",
)

_MEMBERS = {
    BASIC: (
        "training_base_model",
        "training_num_epochs",
        "training_effective_batch_size",
        "training_learning_rate",
        "training_max_seq_len",
        "training_max_tokens_per_gpu",
        "training_unfreeze_rank_ratio",
    ),
    ROWS: ("training_use_processed_dataset", "training_unmask_messages", "training_block_size"),
    TRAINING: ("training_validation_every",),
    OSFT: ("training_target_patterns", "training_min_osft_share"),
    RESULTS: (
        "training_checkpoint_at_epoch",
        "training_save_final_checkpoint",
        "training_save_best",
        "training_save_dtype",
        "training_report_to",
        "training_export_broken_model",
        "export_uri",
        "training_data_output_dir",
    ),
}
_GROUPS = {name: group for group, names in _MEMBERS.items() for name in names}


def group_of(parameter: Parameter) -> str:
    """The group of a parameter; one that no group names goes by where its value goes."""
    if parameter.name in _GROUPS:
        return _GROUPS[parameter.name]
    place = parameter.goes_to.partition(".")[0]
    return {"trainjob": CLUSTER, "data": ROWS, "evaluation": EVALUATION, "": UNUSED}.get(place, TRAINING)


def has_effect_here(parameter: Parameter) -> bool:
    """Whether a run on this computer heeds the parameter: it has no pods, but it may have several GPUs."""
    if parameter.name == "training_resource_num_procs_per_worker":
        return True
    return group_of(parameter) not in (CLUSTER, UNUSED)


def _place(parameter: Parameter) -> tuple[int, int]:
    group = group_of(parameter)
    members = _MEMBERS.get(group, ())
    return _ORDER.index(group), members.index(parameter.name) if parameter.name in members else len(members)


_ORDER = (BASIC, ROWS, TRAINING, OSFT, RESULTS, CLUSTER, UNUSED)
#: Parameters in the order of their groups, those that _MEMBERS names first.
IN_ORDER = tuple(sorted(ALL_PARAMETERS, key=_place))
