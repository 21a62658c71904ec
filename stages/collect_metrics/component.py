"""Stage 4: the training's figures."""

from typing import NamedTuple

from kfp import dsl

from kfp_osft.stages.embedding import stage


@stage()
def collect_metrics(
    checkpoint_dir: str,
    output_metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Outputs", [("metrics_path", str)]):
    """Reads what the trainer logged into one table and the figures that people compare.

    Args:
        checkpoint_dir: What launch_trainjob returned.
        output_metrics: Loss, perplexity, steps, tokens, speed, rows and the main parameters.

    Returns:
        metrics_path: The table, JSON Lines, a line an optimizer step.
    """
    from kfp_osft.shared.metrics_collection import collect

    return collect(checkpoint_dir, output_metrics)
