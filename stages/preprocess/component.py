"""Stage 2: checks everything, and tokenizes the rows."""

from typing import NamedTuple, Optional

from kfp import dsl

from kfp_osft.stages.component import stage
from kfp_osft.stages.parameter_docs import documented


@stage()
@documented
def preprocess(
    dataset_path: str,
    pvc_path: str,
    output_report: dsl.Output[dsl.Artifact],
    training_base_model: str = "Qwen/Qwen2.5-1.5B-Instruct",
    training_effective_batch_size: int = 128,
    training_max_tokens_per_gpu: int = 64000,
    training_max_seq_len: int = 8192,
    training_learning_rate: float = 5e-06,
    training_lr_warmup_steps: int = -1,
    training_checkpoint_at_epoch: Optional[bool] = None,
    training_num_epochs: int = 1,
    training_data_output_dir: Optional[str] = None,
    training_envs: str = "",
    training_resource_cpu_per_worker: str = "8",
    training_resource_gpu_per_worker: int = 1,
    training_resource_memory_per_worker: str = "32Gi",
    training_resource_num_procs_per_worker: str = "auto",
    training_resource_num_workers: int = 1,
    training_metadata_labels: str = "",
    training_metadata_annotations: str = "",
    training_unfreeze_rank_ratio: float = 0.25,
    training_osft_memory_efficient_init: bool = True,
    training_target_patterns: str = "",
    training_seed: int = -1,
    training_use_liger: Optional[bool] = None,
    training_use_processed_dataset: Optional[bool] = None,
    training_unmask_messages: Optional[bool] = None,
    training_lr_scheduler: Optional[str] = None,
    training_lr_scheduler_kwargs: str = "",
    training_save_final_checkpoint: Optional[bool] = None,
    training_fsdp_sharding_strategy: Optional[str] = None,
    training_runtime: str = "training-hub",
    training_start_deadline_minutes: int = 30,
    training_time_limit_minutes: int = 0,
    training_max_dropped_share: float = 0.2,
    training_show_sample: bool = True,
) -> NamedTuple("Outputs", [("data_path", str), ("num_samples", int), ("training_config", str)]):
    """Checks all parameters and the base model, and turns the rows into token ids and loss labels.

    Everything that would fail in the training fails here, before a GPU is asked for.

    Args:
        dataset_path: What resolve_dataset returned.
        pvc_path: Workspace folder.
        output_report: What became of the rows, as JSON.
        training parameters:

    Returns:
        data_path: The tokenized samples, JSON Lines.
        num_samples: How many there are.
        training_config: The checked parameters, for launch_trainjob.
    """
    training = {name: value for name, value in locals().items() if name.startswith("training_")}
    from kfp_osft.stages.preprocess.training_data import preprocess_dataset

    return preprocess_dataset(dataset_path, pvc_path, training, output_report, own_process=True)
