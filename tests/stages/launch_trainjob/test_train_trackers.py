import datetime
import json
import math
import struct
from pathlib import Path

import google_crc32c
import pytest

from kfp_osft.stages.launch_trainjob.train_trackers import EventFile, StepEvents


def records(folder) -> list[bytes]:
    """The records of the folder's event file, their checksums compared with another library's."""
    (file,) = folder.iterdir()
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + length]
        for part, sum_of_it in ((content[:8], content[8:12]), (data, content[12 + length : 16 + length])):
            crc = google_crc32c.value(part)
            assert struct.unpack("<I", sum_of_it)[0] == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
        found.append(data)
        content = content[16 + length :]
    return found


def test_an_event_file_begins_with_its_version_and_each_record_has_its_checksums(tmp_path):
    events = EventFile(tmp_path)
    events.add(300, {"train/loss": 1.5}, 7.0)
    events.close()

    version, scalar = records(tmp_path)
    assert b"brain.Event:2" in version
    assert scalar == (
        b"\x09" + struct.pack("<d", 7.0) + b"\x10\xac\x02" + b"\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15"
    ) + struct.pack("<f", 1.5)


@pytest.mark.parametrize("read_from", [0, 10])
def test_steps_become_events_once_with_a_validation_where_it_was_made(tmp_path, read_from):
    metrics, folder = tmp_path / "training_metrics_0.jsonl", tmp_path / "tensorboard"
    metrics.write_text("x" * (read_from - 1) + "\n" * (read_from > 0))
    events = StepEvents(metrics, read_from, folder)
    timestamp = datetime.datetime(2026, 1, 2, 3, 4, 5).isoformat()
    steps = [
        {"step": 1, "loss": 2.0, "val_loss": 1.5, "val_num_samples": 8, "timestamp": timestamp},
        {"step": 2, "loss": math.nan, "lr": 0.1, "val_loss": 1.5},
    ]
    with metrics.open("a") as file:
        file.write("".join(json.dumps(step) + "\n" for step in steps) + '{"step": 3, "lo')
    events.end()

    _, first, second = records(folder)
    assert first[1:9] == struct.pack("<d", datetime.datetime.fromisoformat(timestamp).timestamp())
    assert b"eval/loss" in first and b"train/loss" in first
    # Neither a number nor measured there.
    assert b"train/learning_rate" in second and b"loss" not in second


def test_a_figure_that_no_float_of_the_event_file_holds_does_not_end_the_training(tmp_path: Path):
    metrics_file = tmp_path / "training_metrics_0.jsonl"
    metrics_file.write_text('{"step": 1, "loss": 1e39}\n')
    StepEvents(metrics_file, 0, tmp_path / "events").end()
