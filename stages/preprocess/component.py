"""Stage 2: checks everything and tokenizes the rows."""

from typing import Any, NamedTuple

from kfp import dsl

from kfp_osft.stages.component import stage


@stage(training_parameters=True)
def preprocess(
    dataset_path: str,
    pvc_path: str,
    output_report: dsl.Output[dsl.Artifact],
    output_summary: dsl.Output[dsl.Markdown],
    validation_path: str = "",
    # Not Optional[...], see resolve_dataset.
    base_model: dsl.Input[dsl.Model] = None,  # pyright: ignore[reportArgumentType]
    **training: Any,
) -> NamedTuple("Outputs", [("data_path", str), ("num_samples", int), ("training_config", str)]):
    """Checks all parameters and the base model, and turns the rows into token ids and loss labels.

    Everything that would fail in the training fails here, before a GPU is asked for.

    Args:
        dataset_path: What resolve_dataset returned.
        pvc_path: Workspace folder.
        output_report: What became of the rows, as JSON.
        output_summary: Rows, steps, a sample, memory, disk and time, to read.
        validation_path: What resolve_dataset returned: rows to hold out from the training. Empty for none.
        base_model: Upstream model artifact, instead of training_base_model.
        training parameters:

    Returns:
        data_path: The tokenized samples, JSON Lines.
        num_samples: How many there are.
        training_config: The checked parameters, for launch_trainjob.
    """
    from kfp_osft.stages.preprocess.training_data import preprocess_dataset

    return preprocess_dataset(
        dataset_path,
        pvc_path,
        training,
        output_report,
        validation_path,
        base_model,
        output_summary=output_summary,
        own_process=True,
    )
