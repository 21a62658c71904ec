"""Rows per second, memory and disk usage of preprocess, compared with training_hub's own tokenizing of the same rows.

Run it: python tests/bench/bench_preprocess.py [rows ...]
training_hub runs with several process counts at the first number of rows and with the best of them at the second;
preprocess runs at all of them, and at the first with several process counts too. Rates are over the whole process,
including its imports; on a busy machine, compare the CPU time instead. Needs Linux.
"""

import argparse
import filecmp
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

_OURS = """
import importlib, sys
from kfp_osft.stages.preprocess.training_data import preprocess_dataset
rows, model, folder, processes = sys.argv[1:]
if int(processes):
    # By its name, since the stage of the same name as the package hides it.
    importlib.import_module("kfp_osft.stages.preprocess.tokenizing").usable_cores = lambda: int(processes)
preprocess_dataset(rows, folder, {"training_base_model": model, "training_data_output_dir": folder + "/data"},
                   own_process=True)
"""
_THEIRS = """
import sys
from kfp_osft.stages.launch_trainjob.train_script import hide_broken_torchvision
hide_broken_torchvision()
from training_hub.algorithms.osft import MiniTrainerOSFTBackend
rows, model, folder, processes = sys.argv[1:]
MiniTrainerOSFTBackend()._process_data(model_name_or_path=model, data_path=rows, output_dir=folder + "/data",
    max_seq_len=8192, num_cpu_procs=int(processes), unmask_messages=False, use_processed_dataset=False)
"""
_LOADER = """
import sys
from kfp_osft.stages.launch_trainjob.train_script import hide_broken_torchvision
hide_broken_torchvision()
from mini_trainer.sampler import JsonlDataset
print(len(JsonlDataset(path=sys.argv[1])))
"""


def write_rows(path: Path, rows: int) -> Path:
    """Writes conversations of about 235 tokens, made of sentences from Python's reference manual."""
    from pydoc_data.topics import topics

    text = " ".join(re.sub(r"\s+", " ", text) for text in topics.values())
    # Prose only: code has more tokens per character than natural language.
    sentences = re.findall(r"(?<=[.:] )[A-Z][A-Za-z ,'-]{40,200}\.(?= )", text)
    generator = random.Random(0)

    def said(length: int) -> str:
        words = ""
        while len(words) < length:
            words += generator.choice(sentences) + " "
        return words.strip()

    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            messages = [{"role": "user", "content": said(200)}, {"role": "assistant", "content": said(760)}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def measure(program: str, rows: Path, model: Path, folder: Path, processes: int = 0) -> dict[str, float]:
    """Rate over the whole process, peak memory (PSS) of its tree, and what it and mini-trainer's loader wrote."""
    env = os.environ | {
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(folder / "tmp"),
    }
    (folder / "tmp").mkdir(parents=True)
    start, cpu = time.monotonic(), os.times()
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(rows), str(model), str(folder), str(processes)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = [0]
    watch = threading.Thread(target=_watch_memory, args=(child, peak))
    watch.start()
    error = child.communicate()[1]
    seconds, ended = time.monotonic() - start, os.times()
    watch.join()
    if child.returncode:
        raise RuntimeError(error)
    data = folder / "data" / "data.jsonl"
    subprocess.run([sys.executable, "-c", _LOADER, str(data)], env=env, check=True, capture_output=True)
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    with rows.open("rb") as file:
        count = sum(1 for _ in file)
    used = ended.children_user + ended.children_system - cpu.children_user - cpu.children_system
    return {
        "rows/s": count / seconds,
        "CPU us/row": 1e6 * used / count,
        "cores used": used / seconds,
        "peak memory, GB": peak[0] / 1e9,
        "written/source": written / rows.stat().st_size,
    }


def same_samples(ours: Path, theirs: Path) -> bool:
    """Whether two data.jsonl hold the same ids and labels in the same order."""
    with ours.open(encoding="utf-8") as one, theirs.open(encoding="utf-8") as other:
        return all(
            [json.loads(line)[field] for field in ("input_ids", "labels", "len")]
            == [json.loads(expected)[field] for field in ("input_ids", "labels", "len")]
            for line, expected in zip(one, other, strict=True)
        )


def _watch_memory(child: subprocess.Popen, peak: list[int]) -> None:
    import psutil

    process = psutil.Process(child.pid)
    while child.poll() is None:
        total = 0
        try:
            for one in (process, *process.children(recursive=True)):
                try:
                    total += one.memory_full_info().pss
                except psutil.Error:
                    continue
        except psutil.Error:
            break
        peak[0] = max(peak[0], total)
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int, nargs="*", default=[20_000, 100_000, 200_000])
    parser.add_argument(
        "--processes",
        type=int,
        nargs="*",
        default=[2, 4, 8],
        help="process counts of training_hub to try at the first row count; none: preprocess alone",
    )
    parser.add_argument(
        "--scaling", type=int, nargs="*", default=[1, 2, 4], help="process counts of preprocess at the first row count"
    )
    arguments = parser.parse_args()
    from kfp_osft.pipelines.demo.example_model import example_model
    from kfp_osft.pipelines.demo.wheels import cache_dir

    model = Path(example_model(cache_dir()))
    print(
        f"{'':<28}{'rows':>9}{'rows/s':>9}{'CPU us/row':>12}{'cores used':>12}"
        f"{'peak memory, GB':>17}{'written/source':>16}",
        flush=True,
    )
    to_try = arguments.processes
    for index, count in enumerate(arguments.rows):
        with tempfile.TemporaryDirectory() as work:
            rows = write_rows(Path(work) / "rows.jsonl", count)
            ours = measure(_OURS, rows, model, Path(work) / "ours")
            _tell("preprocess", count, ours)
            for processes in arguments.scaling if index == 0 else []:
                alone = measure(_OURS, rows, model, Path(work) / f"ours-{processes}", processes)
                _tell(f"preprocess, {processes} processes", count, alone)
                made = [Path(work) / name / "data" / "data.jsonl" for name in ("ours", f"ours-{processes}")]
                assert filecmp.cmp(*made, shallow=False), "the same bytes, however many processes"
                shutil.rmtree(Path(work) / f"ours-{processes}")
            rates: dict[int, float] = {}
            costs = []
            for processes in to_try:
                folder = Path(work) / f"theirs-{processes}"
                theirs = measure(_THEIRS, rows, model, folder, processes)
                _tell(f"training_hub, {processes} processes", count, theirs)
                rates[processes] = theirs["rows/s"]
                costs.append(theirs["CPU us/row"])
                assert same_samples(Path(work) / "ours" / "data" / "data.jsonl", folder / "data" / "data.jsonl")
                shutil.rmtree(folder)
            if rates:
                print(
                    f"the same samples at {ours['rows/s'] / max(rates.values()):.1f} times the rows a second, "
                    f"for {ours['CPU us/row'] / min(costs):.2f} of the CPU time",
                    flush=True,
                )
            # All at the first count, the best of them at the second.
            to_try = [max(rates, key=rates.get)] if rates and index == 0 else []


def _tell(name: str, rows: int, figures: dict[str, float]) -> None:
    print(
        f"{name:<28}{rows:>9,}{figures['rows/s']:>9,.0f}{figures['CPU us/row']:>12,.0f}{figures['cores used']:>12.2f}"
        f"{figures['peak memory, GB']:>17.2f}{figures['written/source']:>16.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
