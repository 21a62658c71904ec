"""Stage 4: the figures of the training."""

from typing import NamedTuple

from kfp import dsl

from kfp_osft.stages.component import stage


@stage()
def collect_metrics(
    checkpoint_dir: str,
    output_metrics: dsl.Output[dsl.Metrics],
    output_steps: dsl.Output[dsl.Artifact],
    output_training_log: dsl.Output[dsl.Artifact],
    check_matrices: int = 0,
) -> NamedTuple("Outputs", [("metrics_path", str)]):
    """Turns what the trainer logged into one table and the figures people compare.

    Args:
        checkpoint_dir: What launch_trainjob returned.
        check_matrices: For this many weight matrices, the share of the change in the directions to keep is measured
            too, in ten minutes at most; 0 measures none.
        output_metrics: Loss, perplexity, steps, tokens, speed, rows and the main parameters.
        output_steps: The table.
        output_training_log: What the training printed.

    Returns:
        metrics_path: The table, as JSON Lines: one line per optimizer step.
    """
    from kfp_osft.stages.collect_metrics.collection import collect

    return collect(checkpoint_dir, output_metrics, output_steps, output_training_log, check_matrices)
