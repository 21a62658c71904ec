"""The end of a local run on the terminal: how the loss went, and where things are."""

from collections.abc import Sequence
from typing import Any

from kfp_osft.pipelines.local_run import LocalRun
from kfp_osft.shared.log import log


def show_run(run: LocalRun, steps: Sequence[dict[str, Any]]) -> None:
    """Prints the loss from first to last, the time, and the places of model, metrics, chart and log."""
    log(f"\nLoss     {steps[0]['loss']:.3f} at the first step, {steps[-1]['loss']:.3f} at the last of {len(steps)}")
    log(f"Trained  {run.metrics['samples']:.0f} samples, {run.metrics['tokens']:,.0f} tokens in "
        f"{run.metrics['wall_clock_seconds']:.0f} s")
    log(f"Model    {run.model}")
    log(f"Metrics  {run.steps}")
    log(f"Chart    {run.loss_chart}")
    log(f"Log      {run.log}")
