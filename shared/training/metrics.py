"""What the trainer logged, as one table, and the figures people compare.

The source is mini-trainer's training_metrics_<node>.jsonl (mini_trainer/train.py: batch_metrics), one JSON
object a step. Local rank 0 of each NODE writes one; loss, tokens and samples in it are already summed over
all ranks.
"""

import contextlib
import json
import math
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.reporting.errors import InputError

#: Of the first step after resuming: the number of the last step before.
RESUMED_AFTER = "resumed_after"
# kfp_osft.stages.launch_trainjob.train_resume.RESUMED_FILE, without that script in the stages that only read it.
_RESUMED_FILE = "training_resumed.jsonl"
_FILE_NAME = re.compile(r"training_metrics_(\d+)\.jsonl")


def read_steps(checkpoint_dir: Path) -> list[dict]:
    """The steps that made the model, in order, each once, with the trainer's own field names.

    - Attempts: the trainer appends to one file. A step that is already there begins a new attempt, which
      replaces the earlier lines from its first step on: what ran after the point of resuming is not in the
      model.
    - Nodes: the figures in their files are the same, so the file of the lowest node number counts. Another
      node's gives what only it has: a higher peak_memory_usage_GB, which is each node's own, and steps whose
      lines the first one lost. A file that shows another loss for a step is another training's.
    - The end of a line that a killed trainer left cut is dropped, also where the next attempt wrote on in it.

    Returns [] where there is no file, which is a training that never finished a step. NaN and Infinity are
    floats.

    Raises:
        InputError: no such folder, or a line that is not a step of this trainer; names file and line.
    """
    if not checkpoint_dir.is_dir():
        raise InputError(f"checkpoint_dir: {checkpoint_dir} is no folder; it must be the training's output")
    found = ((_FILE_NAME.fullmatch(path.name), path) for path in checkpoint_dir.iterdir())
    files = [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]
    if not files:
        return []
    by_number = _last_attempts(_read_lines(files[0]))
    for file in files[1:]:
        _add_node(by_number, _last_attempts(_read_lines(file)))
    return [by_number[step] for step in sorted(by_number)]


def _add_node(steps: dict[int, dict], of_node: dict[int, dict]) -> None:
    shared = steps.keys() & of_node.keys()
    if any(not _same_loss(steps[step], of_node[step]) for step in shared):
        return
    for step in shared:
        peaks = [number(row.get("peak_memory_usage_GB")) for row in (steps[step], of_node[step])]
        if not math.isnan(peaks[1]) and not peaks[0] >= peaks[1]:
            steps[step]["peak_memory_usage_GB"] = peaks[1]
    if shared:
        steps.update((step, line) for step, line in of_node.items() if step not in shared)


def _same_loss(one: dict, other: dict) -> bool:
    return one["loss"] == other["loss"] or (math.isnan(one["loss"]) and math.isnan(other["loss"]))


def _read_lines(path: Path) -> list[dict]:
    rows = []
    lines = [(at, line.strip()) for at, line in enumerate(path.read_bytes().split(b"\n"), start=1)]
    lines = [(at, line) for at, line in lines if line]
    for at, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # of JSON or of UTF-8
            # A resumed trainer appends to what its killed predecessor left: {"step": 7, "lo{"step": 7, ...}
            begin = line.rfind(b'{"step"')
            try:
                row = json.loads(line[begin:]) if begin > 0 and line.startswith(b"{") else None
            except (ValueError, RecursionError):
                row = None
            if row is None:
                if at == lines[-1][0] and line.startswith(b"{") and not line.endswith(b"}"):
                    break  # cut while it was written
                raise InputError(
                    f"{path}, line {at}: not JSON: {_shown(line)}; every line must be one JSON object"
                ) from None
        rows.append(_checked(row, f"{path}, line {at}", line))
    return rows


def _checked(row: object, where: str, line: bytes) -> dict:
    if not isinstance(row, dict):
        raise InputError(f"{where}: {_shown(line)} is no JSON object; every line must be one step")
    step, loss = row.get("step"), row.get("loss")
    # A float holds whole numbers up to 2^53.
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 53:
        raise InputError(f"{where}: step is {repr(step)[:80]}; every line must hold the step's number, 0 or more")
    if isinstance(loss, bool) or not isinstance(loss, int | float):
        raise InputError(f"{where}: loss is {loss!r} in step {step}; it must be a number")
    # What no float holds is no figure of a trainer.
    return {**{key: value for key, value in row.items() if not _is_huge(value)}, "loss": _as_float(loss)}


def _as_float(value: int | float) -> float:
    return math.inf if _is_huge(value) else float(value)


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > 1023


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", errors="replace")
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _last_attempts(lines: Iterable[dict]) -> dict[int, dict]:
    # Only a step that came before starts an attempt, not any smaller number: the trainer writes its lines
    # asynchronously, so two fast steps can stand in the wrong order.
    attempts: list[dict[int, dict]] = [{}]
    for line in lines:
        if line["step"] in attempts[-1]:
            attempts.append({})
        attempts[-1][line["step"]] = line
    steps: dict[int, dict] = {}
    for attempt in attempts:
        first = min(attempt, default=0)
        steps = {number: line for number, line in steps.items() if number < first} | attempt
    return steps


def write_table(steps: list[dict], path: Path) -> None:
    """Writes one JSON object a line, with the fields' own names; whole or not at all. Its folder must exist.

    NaN and infinite values, which JSON does not have, become null.
    """
    lines = (json.dumps(_finite(step), allow_nan=False) + "\n" for step in steps)
    with replacing_file(path) as unfinished:
        unfinished.write_bytes("".join(lines).encode())


def read_table(path: Path) -> list[dict]:
    """Reads what write_table wrote; a loss of null is NaN again, so that a loss always is a float.

    Raises:
        InputError: no such file, or a line that is not a step; names file and line.
    """
    if not path.is_file():
        raise InputError(f"metrics_path: {path} is no file; it must be what collect_metrics wrote")
    rows = []
    for at, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {at}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            problem = f"{where}: not JSON: {_shown(line)}; every line must be one JSON object"
            raise InputError(problem) from None
        if isinstance(row, dict) and "loss" in row and row["loss"] is None:
            row["loss"] = math.nan
        rows.append(_checked(row, where, line))
    return rows


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


def with_resumptions(steps: list[dict], checkpoint_dir: Path) -> list[dict]:
    """The steps, the first one after each resumption with RESUMED_AFTER.

    Args:
        steps: as read_steps gives them.
        checkpoint_dir: of the training, whose script notes there from which state it goes on.
    """
    first = {}
    for after in _noted(checkpoint_dir / _RESUMED_FILE):
        if later := [step["step"] for step in steps if step["step"] > after]:
            first[min(later)] = after
    return [{**step, RESUMED_AFTER: first[step["step"]]} if step["step"] in first else step for step in steps]


def resumptions(steps: list[dict]) -> list[int]:
    """The last steps before each resumption."""
    found = (number(step.get(RESUMED_AFTER)) for step in steps)
    return [int(after) for after in found if not math.isnan(after)]


def _noted(file: Path) -> list[int]:
    """In order; an attempt that made no step before it was interrupted too noted the same as the next one."""
    found = set()
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            # The last line may be cut.
            with contextlib.suppress(ValueError, LookupError, TypeError):
                found.add(int(json.loads(line)["after_step"]))
    return sorted(found)


def number(value: object) -> float:
    """A field's value as a float: NaN for one that is missing, no number, or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def numbers(steps: list[dict], field: str) -> list[float]:
    """A field's finite values, in the steps' order."""
    values = (number(step.get(field)) for step in steps)
    return [value for value in values if not math.isnan(value)]


def summarize(steps: list[dict]) -> dict[str, float | int]:
    """The figures people compare, flat as KFP's Metrics want them.

    Every value is finite: a figure that was not logged or is NaN is left out (health.warnings_of says the latter).
    No steps give {}.

    - final_loss: loss of the last step, mean cross-entropy a loss-counted token, in nats; with the router's auxiliary
      loss where the model's config has output_router_logits
    - first_loss: loss of the first step
    - lowest_loss: smallest loss of any step
    - mean_loss_last_tenth: mean of the losses of the last tenth of the steps, rounded up to whole steps;
      steadier than final_loss, which is that of one batch
    - final_perplexity: e to the power of final_loss
    - steps: number of the last optimizer step
    - epochs: epochs begun, so 3 in the middle of the third
    - samples: samples trained on, repetitions in later epochs counted
    - tokens: tokens that went through the model, repetitions counted, over all ranks
    - loss_tokens: those of them that the loss counted (label not -100)
    - median_tokens_per_second: median of the steps' tokens a second, over all ranks; the slow first step does
      not pull it down
    - training_seconds: sum of the steps' wall-clock; without loading the model, validation and saving
      checkpoints, and without steps that a resumed attempt repeated
    - peak_gpu_memory_gb: largest memory a step allocated, 10^9 bytes, on the first GPU of the fullest node;
      only with a GPU
    - last_learning_rate: learning rate of the last step
    - median_grad_norm, largest_grad_norm: L2 norm of the gradient before it is clipped (mini-trainer
      clips to 1)
    - validation_loss: last one that a step's line shows. mini-trainer writes a validation at the end of an
      epoch with the NEXT step, and so the one at the very end not at all; see
      kfp_osft.shared.training.validation_losses
    """
    if not steps:
        return {}
    last = steps[-1]
    final = number(last.get("loss"))
    losses = numbers(steps, "loss")
    tail = numbers(steps[-math.ceil(len(steps) / 10) :], "loss")
    rates = numbers(steps, "tokens_per_second")
    norms = numbers(steps, "grad_norm")
    figures: dict[str, float | int] = {
        "final_loss": final,
        "first_loss": number(steps[0].get("loss")),
        "lowest_loss": min(losses, default=math.nan),
        "mean_loss_last_tenth": math.fsum(tail) / len(tail) if tail else math.nan,
        "final_perplexity": math.exp(final) if final < 700 else math.nan,  # e^710 is more than a float holds
        "steps": last["step"],
        "epochs": number(last.get("epoch")) + 1,
        "samples": _total(steps, "total_samples_accumulated", "num_samples"),
        "tokens": _total(steps, None, "num_total_tokens"),
        "loss_tokens": _total(steps, "total_tokens_accumulated", "num_loss_counted_tokens"),
        "median_tokens_per_second": statistics.median(rates) if rates else math.nan,
        "training_seconds": _total(steps, None, "time_per_batch"),
        "peak_gpu_memory_gb": max(numbers(steps, "peak_memory_usage_GB"), default=0.0) or math.nan,
        "last_learning_rate": number(last.get("lr")),
        "median_grad_norm": statistics.median(norms) if norms else math.nan,
        "largest_grad_norm": max(norms, default=math.nan),
        "validation_loss": (numbers(steps, "val_loss") or [math.nan])[-1],
    }
    counts = ("epochs", "samples", "tokens", "loss_tokens")
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    return {name: round(value) if name in counts else value for name, value in finite.items()}


def _total(steps: list[dict], running: str | None, each: str) -> float:
    # The running total of the last step is right even where a line was lost.
    total = number(steps[-1].get(running)) if running else math.nan
    values = numbers(steps, each)
    return total if not math.isnan(total) else math.fsum(values) if values else math.nan
