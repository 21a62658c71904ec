"""resolve_dataset: rows per second and peak memory by format, at 20,000 and 200,000 rows; S3 against one connection.

Run it: python tests/bench/bench_resolve_dataset.py
"""

import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_SHORT, _LONG = 20_000, 200_000
_OBJECT_SIZE = 512 << 20
# VmHWM rather than getrusage, whose value a child inherits from its parent.
_PROGRAM = """
import json, re, sys, time
from pathlib import Path
from kfp_osft.stages.resolve_dataset.source import resolve
start = time.monotonic()
rows = resolve(sys.argv[1], "train", sys.argv[2], None).num_rows
seconds = time.monotonic() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps([rows / seconds, peak / 1000]))
"""
_FETCH = """
import json, re, sys, time
from pathlib import Path
import boto3
from kfp_osft.stages.resolve_dataset.s3 import fetch_from_s3
start = time.monotonic()
fetch_from_s3("s3://bench/rows.jsonl", Path(sys.argv[1]))
seconds = time.monotonic() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps([seconds, peak / 1000]))
"""


def _rows(count: int) -> Iterator[dict]:
    """Conversations of about 1 kB with varied words."""
    source = random.Random(7)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 9))) for _ in range(20_000)]
    for _ in range(count):
        question, answer = (" ".join(source.choices(words, k=length)) for length in (30, 130))
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _write(folder: Path, count: int) -> list[Path]:
    import pyarrow
    from pyarrow import parquet

    rows = list(_rows(count))
    lines = [json.dumps(row) for row in rows]
    plain, packed, array = (folder / f"{count}{extension}" for extension in (".jsonl", ".jsonl.gz", ".json"))
    plain.write_text("\n".join(lines))
    with gzip.open(packed, "wt", compresslevel=4) as file:
        file.write("\n".join(lines))
    array.write_text("[" + ",\n".join(lines) + "]")
    zstd = folder / f"{count}.jsonl.zst"
    zstd.write_bytes(pyarrow.compress("\n".join(lines).encode(), codec="zstd", asbytes=True))
    table, columns = pyarrow.Table.from_pylist(rows), folder / f"{count}.parquet"
    # One row group: the worst case.
    parquet.write_table(table, columns, row_group_size=count)
    arrow = folder / f"{count}.arrow"
    with pyarrow.ipc.new_stream(str(arrow), table.schema) as writer:
        writer.write_table(table, 1000)
    table_of_text = folder / f"{count}.csv"
    table_of_text.write_text(
        "messages\n" + "".join('"' + json.dumps(row["messages"]).replace('"', '""') + '"\n' for row in rows)
    )
    return [plain, packed, zstd, array, columns, arrow, table_of_text]


def _measure(file: Path) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as pvc:
        return _run(_PROGRAM, str(file), pvc)


def _run(program: str, *arguments: str) -> tuple[float, float]:
    output = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    ).stdout
    return tuple(json.loads(output.splitlines()[-1]))


def _compare_formats(folder: Path) -> None:
    short, long = _write(folder, _SHORT), _write(folder, _LONG)
    print(f"{'':<12}{'rows/s':>10}{f'MB at {_SHORT:,}':>16}{f'MB at {_LONG:,}':>16}{'ratio':>8}")
    for small, large in zip(short, long, strict=True):
        (_, memory), (speed, memory_of_large) = _measure(small), _measure(large)
        extension = small.name.partition(".")[2]
        print(f".{extension:<11}{speed:>10,.0f}{memory:>16.0f}{memory_of_large:>16.0f}{memory_of_large / memory:>8.2f}")


def _compare_s3(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from fakes.s3 import S3Server

    (folder / "s3").mkdir()
    with S3Server(folder / "s3") as server:
        os.environ |= server.environment
        server.put("bench", "rows.jsonl", random.Random(7).randbytes(1 << 20) * (_OBJECT_SIZE >> 20))
        start = time.monotonic()
        with (folder / "baseline").open("wb") as file:
            for piece in server.client.get_object(Bucket="bench", Key="rows.jsonl")["Body"].iter_chunks(1 << 20):
                file.write(piece)
            os.fsync(file.fileno())
        baseline = _OBJECT_SIZE / (time.monotonic() - start) / 1e6
        seconds, peak = _run(_FETCH, str(folder))
        again, _ = _run(_FETCH, str(folder))
    parallel = _OBJECT_SIZE / seconds / 1e6
    print(
        f"\nS3, {_OBJECT_SIZE >> 20} MiB on this computer: {parallel:,.0f} MB/s, one connection {baseline:,.0f} MB/s "
        f"(ratio {parallel / baseline:.2f}); again, unchanged: {again * 1000:.0f} ms; peak memory {peak:.0f} MB"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        if "s3" not in sys.argv[1:]:
            _compare_formats(Path(name))
        _compare_s3(Path(name))


if __name__ == "__main__":
    main()
