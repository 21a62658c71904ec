"""Summary of a local run on the terminal: the loss, what the model kept, and where the results are."""

import math
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.pipelines.local.evaluation import quick_figures
from kfp_osft.pipelines.local.run import LocalRun
from kfp_osft.pipelines.local.small_model import is_quickly_loaded
from kfp_osft.shared.files.atomic import write_json
from kfp_osft.shared.knowledge.check import check_run, model_on_disk
from kfp_osft.shared.knowledge.loss_change import change_text, meaning, perplexity_change
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.metrics import number
from kfp_osft.shared.training.run_file import MODELS, read_run
from kfp_osft.stages.evaluate_model.comparison import TASK, Compared, metrics, with_drift
from kfp_osft.stages.export_model.published_run import add_check

#: The figures of the check, beside the metrics.
KNOWLEDGE_FILE = "kept_knowledge.json"
# A sample, since each matrix needs a decomposition. The time limit is a tenth of the training's time, or half a minute
# if that is longer.
_MATRICES = 6
_SHARE_OF_TRAINING, _LEAST_SECONDS = 0.1, 30.0


class QuickCheck(NamedTuple):
    """What a model kept, by a cheap sample.

    Attributes:
        verdict: on the weights, and on a jump of the general loss.
        losses: of both models on a general text, and on held-out rows.
    """

    verdict: str
    losses: list[Compared]


def check_local_run(run: LocalRun, held_out: Path | None = None) -> QuickCheck | None:
    """What the model kept, by a cheap sample; its figures go to kept_knowledge.json beside the metrics,
    and into the model's card.

    Args:
        run: the run to check.
        held_out: rows of the task that were not trained on.

    Returns:
        The figures; None for a model that is too large, or that cannot be compared, for which a line says why.
    """
    checkpoint_dir = run.steps.parent
    # final_model may be another run's by now.
    model = run.model.parent / MODELS / checkpoint_dir.name
    model = model if model.is_dir() else run.model
    # The summary names kfp-osft evaluate, which measures any model.
    if not is_quickly_loaded(model):
        return None
    seconds = max(_LEAST_SECONDS, _SHARE_OF_TRAINING * run.metrics.get("wall_clock_seconds", 0.0))
    log("\nMeasuring what the model kept ...")
    try:
        weights = check_run(checkpoint_dir, model, matrices=_MATRICES, seconds=seconds)
        osft = (read_run(checkpoint_dir) or {})["osft"]
        base = model_on_disk("training_base_model", osft["model_path"], fetch=False)
        losses = quick_figures(base, model, held_out, bool(osft.get("trust_remote_code")))
    # The training is complete: a failed measurement must not make it a failure.
    except (InputError, OSError, RuntimeError, ValueError) as error:
        log(f"It could not be measured: {error}")
        return None
    verdict, figures = with_drift(weights.verdict, losses), weights.metrics() | metrics(losses)
    write_json(checkpoint_dir / KNOWLEDGE_FILE, figures)
    add_check(model, verdict, figures)
    return QuickCheck(verdict, losses)


def show_run(run: LocalRun, steps: Sequence[dict[str, Any]], check: QuickCheck | None) -> None:
    """Prints about ten lines: the loss, figures of the training, what was kept, and where the results are."""
    lines = summary_lines(run, steps, check)
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = [part for line in lines for part in _wrapped(line, width)]
    log("\n" + "\n".join(lines))


def _wrapped(line: str, width: int) -> list[str]:
    """In lines of the terminal's width below each other; a path stays whole, for copying."""
    return textwrap.wrap(line, width, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)


def summary_lines(run: LocalRun, steps: Sequence[dict[str, Any]], check: QuickCheck | None) -> list[str]:
    """The lines that show_run prints."""
    metrics = run.metrics
    lines = [
        f"Loss     {_course(steps)}",
        f"Trained  {metrics['samples']:,.0f} samples, {metrics['tokens']:,.0f} tokens, {_speed(metrics)}; "
        f"{duration_text(metrics['wall_clock_seconds'])} with loading and saving",
    ]
    if "rows_kept" in metrics:
        dropped = metrics.get("rows_too_long", 0) + metrics.get("rows_too_short", 0)
        lines.append(f"Rows     {metrics['rows_kept']:,.0f} trained on, {dropped:,.0f} dropped for their length")
    if "validation_loss" in metrics:
        lines.append(f"Held out {_validation(metrics)}")
    if check is not None:
        lines.append(f"Weights  {check.verdict}")
        lines += [_before_and_after(loss) for loss in check.losses]
    lines += [f"Model    {run.model}", f"Metrics  {run.steps}", f"Chart    {run.loss_chart}", f"Log      {run.log}"]
    if run.report is not None:
        return [*lines, f"Report   {run.report}"]
    described = read_run(run.steps.parent)
    if described:
        # The ratio and the limited matrices stand in the model's osft_run.json.
        command = ["kfp-osft", "evaluate", described["osft"]["model_path"], str(run.model)]
        lines.append(f"Evaluate {shlex.join(command)}")
    return lines


def _course(steps: Sequence[dict[str, Any]]) -> str:
    first, last = steps[0]["loss"], steps[-1]["loss"]
    text = f"{first:.3f} at the first step, {last:.3f} at the last of {len(steps):,}"
    finite = [step for step in steps if not math.isnan(number(step["loss"]))]
    lowest = min(finite, key=lambda step: step["loss"], default=None)
    return text if lowest is None else f"{text}, lowest {lowest['loss']:.3f} at step {lowest['step']:,}"


def _speed(metrics: Mapping[str, float]) -> str:
    """The median of the steps, as everywhere: the first one pays for the start, and loading has no tokens."""
    speed = metrics.get("median_tokens_per_second")
    return "" if speed is None else f"{speed:,.0f} tokens/s"


def _validation(metrics: Mapping[str, float]) -> str:
    """The validation losses, and whether they rose again."""
    last = metrics["validation_loss"]
    lowest = metrics.get("lowest_validation_loss", last)
    losses = f"validation loss {last:.3f} at the end"
    if perplexity_change(lowest, last) <= 0.01:
        return f"{losses}, the lowest of all or next to it"
    return f"{losses}, {lowest:.3f} at the lowest: it rose again, fewer epochs or a lower learning rate may do"


def _before_and_after(loss: Compared) -> str:
    """The perplexity before and after, and what to think of the change."""
    change = change_text(loss.before, loss.after)
    figures = f"({_perplexity(loss.before)} before, {_perplexity(loss.after)} after)"
    if loss.kind != TASK:
        rose = "the model forgot; a lower learning rate or unfreeze rank ratio keeps more"
        return f"General  {change} on a general text {figures}: {meaning(loss.before, loss.after, rose)}"
    rose = "the model overfits"
    return f"Task     {change} on held-out rows {figures}: {meaning(loss.before, loss.after, rose)}"


def _perplexity(loss: float) -> str:
    return f"{math.exp(min(loss, 700.0)):.3g}"
