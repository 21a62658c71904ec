"""What the training will need beside the rows: memory, disk and time, each against what there is."""

import os
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.model.folder import config_value, read_config
from kfp_osft.shared.parameters.environment import is_local
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.sizes import size_text
from kfp_osft.shared.training.memory import LARGEST_GPU, MemoryNeed, memory_need
from kfp_osft.shared.training.metrics import numbers, read_steps
from kfp_osft.shared.training.run_file import CHECKPOINTS, RUN_FILE, read_run

_CGROUP = Path("/sys/fs/cgroup")


class Needs(NamedTuple):
    """What find_needs gives."""

    memory: dict[str, int]
    lines: list[str]
    warnings: list[str]


def find_needs(
    model_folder: Path,
    coverage: Coverage,
    osft: Mapping[str, Any],
    trainjob: Mapping[str, Any],
    report: Mapping[str, Any],
    workspace: Path,
) -> Needs:
    """What the training needs: MemoryNeed as JSON, sentences for people, and warnings.

    Args:
        model_folder: the base model; its config is read.
        osft, trainjob: checked parameters.
        report: of the samples, with planned_training's part.
        workspace: where checkpoints and model go, and earlier runs are.

    Raises:
        InputError: no computer, GPU or disk that there is can hold it.
    """
    local = is_local()
    gpus = gpu_memories() if local else []
    processes, pods = _processes(trainjob, len(gpus) if local else None)
    need = memory_need(
        read_config(model_folder), coverage, osft["unfreeze_rank_ratio"], _tokens_at_once(osft, report, processes)
    )
    on_gpu = bool(gpus) if local else trainjob["gpu_per_worker"] > 0
    lines, warnings = [], []
    if on_gpu:
        there = min(gpus) if gpus else 0
        _tell_gpu(need, processes, there, lines, warnings)
    else:
        _tell_cpu(need, processes, pods, available_memory() if local else 0, lines, warnings)
    _tell_disk(model_folder, coverage, osft, workspace, lines, warnings)
    if line := _time_of_earlier_runs(osft["model_path"], report["training"]["tokens"], workspace):
        lines.append(line)
    return Needs(need._asdict(), lines, warnings)


def gpu_memories() -> list[int]:
    """Bytes of memory of each NVIDIA GPU of this computer that CUDA_VISIBLE_DEVICES does not hide."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        return [int(line) << 20 for line in done.stdout.split()] if not done.returncode else []
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []


def available_memory() -> int:
    """Bytes that new processes of this computer, or of this container, can have; 0 where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        there = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return 0
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        return min(there, max(0, limit - used))
    # No cgroup v2, or "max".
    except (OSError, ValueError):
        return there


def _processes(trainjob: Mapping[str, Any], local_gpus: int | None) -> tuple[int, int]:
    """Training processes in all, and in how many pods."""
    of_pod, pods = trainjob["procs_per_worker"], trainjob["num_workers"]
    if local_gpus is not None:
        pods = 1
    if of_pod == "auto":
        of_pod = max(1, trainjob["gpu_per_worker"] if local_gpus is None else local_gpus)
    return of_pod * pods, pods


def _tokens_at_once(osft: Mapping[str, Any], report: Mapping[str, Any], processes: int) -> int:
    """mini-trainer packs a process' share of the batch into microbatches of max_tokens_per_gpu."""
    block = osft.get("block_size")
    of_sample, longest = block or report["tokens"] / report["samples"], block or report["tokens_of_a_sample"]["longest"]
    of_batch = osft["effective_batch_size"] * of_sample / processes
    return max(min(osft["max_tokens_per_gpu"], round(of_batch)), longest)


def _tell_gpu(need: MemoryNeed, processes: int, there: int, lines: list[str], warnings: list[str]) -> None:
    least, expected = need.states // processes, need.of_process(processes)
    each = f"each of {processes} GPUs" if processes > 1 else "each GPU"
    lines.append(_memory_line(need, expected, f" of {each}", f"; this one has {size_text(there)}" if there else ""))
    if least > (there or LARGEST_GPU):
        raise InputError(
            f"the training cannot fit: weights, gradients and optimizer states alone take {size_text(least)} of each "
            f"GPU, and {'this one has' if there else 'no GPU has more than'} {size_text(there or LARGEST_GPU)}; raise "
            "training_resource_gpu_per_worker or training_resource_num_workers, lower training_unfreeze_rank_ratio, or "
            "take a smaller base model"
        )
    if there and expected > there:
        warnings.append("the training may run out of GPU memory; lower training_max_tokens_per_gpu")


def _tell_cpu(need: MemoryNeed, processes: int, pods: int, there: int, lines: list[str], warnings: list[str]) -> None:
    expected = need.on_cpu(processes, pods)
    each, has = " of each training pod" if pods > 1 else "", f"; {size_text(there)} are available" if there else ""
    lines.append(_memory_line(need, expected, each, has))
    if there and need.least_on_cpu() > there:
        raise InputError(
            f"the training cannot fit: it takes {size_text(need.least_on_cpu())} of memory at least, and this computer "
            f"has {size_text(there)} available; take a smaller training_base_model, or end other programs"
        )
    if there and expected > there:
        warnings.append("the training may run out of memory; lower training_max_tokens_per_gpu")


def _memory_line(need: MemoryNeed, expected: int, each: str, has: str) -> str:
    share = f"{size_text(need.microbatch)} of it for the {need.tokens:,} tokens taken at a time"
    return f"Memory: about {size_text(expected)}{each} ({share}){has}"


def _tell_disk(
    model_folder: Path,
    coverage: Coverage,
    osft: Mapping[str, Any],
    workspace: Path,
    lines: list[str],
    warnings: list[str],
) -> None:
    config = read_config(model_folder)
    dtype = osft.get("save_dtype") or config_value(config, "dtype") or config_value(config, "torch_dtype") or "float32"
    model = (coverage.layers + coverage.others) * (2 if dtype in ("bfloat16", "float16") else 4)
    saved = osft["num_epochs"] * bool(osft.get("checkpoint_at_epoch")) + osft.get("save_final_checkpoint", True)
    # The best one, and the one before it until the other is whole.
    saved += 2 * bool(osft.get("save_best_val_loss"))
    # What export_model publishes are hard links to a checkpoint's weights.
    needed, free = model * max(1, saved), shutil.disk_usage(workspace).free
    lines.append(
        f"Disk: about {size_text(needed)} for {max(1, saved)} checkpoint{'s' * (saved > 1)}, and {size_text(free)} are "
        f"free in {workspace}"
    )
    if model > free:
        raise InputError(
            f"pvc_path={workspace}: the trained model needs {size_text(model)}, and {size_text(free)} are free there"
        )
    if needed > free:
        warnings.append(
            f"the checkpoints need {size_text(needed)}, and {size_text(free)} are free in {workspace}; switch "
            "training_checkpoint_at_epoch or training_save_best off"
        )


def _time_of_earlier_runs(model_path: str, tokens: int, workspace: Path) -> str:
    """How long the training takes by the latest run in this workspace that trained the same model; or nothing."""
    runs = sorted(workspace.glob(f"{CHECKPOINTS}/*/{RUN_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in runs:
        try:
            run = read_run(file.parent) or {}
            if run["osft"]["model_path"] != model_path:
                continue
            steps = read_steps(file.parent)
            speed = statistics.median(numbers(steps, "tokens_per_second"))
            other = max(0.0, float(run["seconds"]) - sum(numbers(steps, "time_per_batch")))
            took = other + tokens / speed
        except (InputError, LookupError, TypeError, ValueError, ArithmeticError):
            continue
        return f"Time: about {duration_text(took)}, at the {speed:,.0f} tokens a second of the run {file.parent.name}"
    return ""
