import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.tiny_model import write_chat_rows

# Stops at the named moment and says so, until it is killed.
CHILD = """
import itertools, os, sys, time
from kfp_osft.stages.preprocess import training_data
from kfp_osft.stages.preprocess.processed_rows import LineWriter

def stop(*arguments, **more):
    print("here", flush=True)
    time.sleep(600)

def stop_after(count, function):
    calls = itertools.count(1)
    return lambda *arguments: stop() if next(calls) > count else function(*arguments)

pvc, dataset, model, moment, count = sys.argv[1:]
if moment == "sample":
    LineWriter.line = stop_after(int(count), LineWriter.line)
elif moment == "encode":
    from kfp_osft.shared.rows.chat_tokens import ChatTokenizer
    ChatTokenizer._found = stop_after(int(count), ChatTokenizer._found)
elif moment == "rename":
    os.replace = stop_after(int(count), os.replace)
else:
    training_data.write_manifest = stop
training_data.preprocess_dataset(dataset, pvc, {"training_base_model": model, "training_max_seq_len": 256})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "count"),
    [
        ("sample", 0),
        ("sample", 1000),
        ("sample", 4999),
        ("encode", 5),
        ("rename", 0),
        ("rename", 1),
        ("write_manifest", 0),
        ("rename", 2),
        ("rename", 3),
    ],
    ids=[
        "before the first sample",
        "among the samples",
        "before the last sample",
        "while a batch is encoded",
        "before the folder is claimed",
        "before the data is in its place",
        "before the manifest is written",
        "before the manifest is in its place",
        "before the report is in its place",
    ],
)
def test_a_rerun_after_a_kill_makes_the_same_bytes_as_an_undisturbed_run(
    run, tmp_path: Path, pvc: Path, tiny_model: Path, tokenized: list, moment: str, count: int
):
    rows = write_chat_rows(tmp_path / "rows.jsonl", rows=5000)
    undisturbed = run(rows)
    data, manifest = Path(undisturbed.data_path), Path(undisturbed.data_path).parent / "manifest.json"
    report = data.parent / "report.json"
    before = data.read_bytes(), manifest.read_bytes(), report.read_bytes()
    shutil.rmtree(pvc)

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(pvc), str(rows), str(tiny_model), moment, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "here\n" in iter(child.stdout.readline, "")
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL

    # First a manifest that only claims the folder, then the data, then the manifest that lets it be used again.
    renamed = 2 if moment == "write_manifest" else count if moment == "rename" else 0
    assert (manifest.exists(), data.exists(), report.exists()) == (renamed >= 1, renamed >= 2, False)
    assert run(rows) == undisturbed
    # The last one needs no more than the tokenizer, to show the first sample.
    assert len(tokenized) == 2
    assert (data.read_bytes(), manifest.read_bytes(), report.read_bytes()) == before
