"""Part of the training script: experiment trackers, only those that were asked for; standard library only.

mini-trainer starts MLflow or Weights & Biases as soon as it finds their variables, which workbenches and namespaces set
for other purposes, and fails where the package is not installed.
"""

import contextlib
import datetime
import importlib.util
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.parameters.environment import is_of_unwanted_tracker
from kfp_osft.stages.launch_trainjob.train_end import UNMENDABLE, end
from kfp_osft.stages.launch_trainjob.train_steps import NewSteps

TENSORBOARD = "tensorboard"
_SECONDS_BETWEEN_EVENTS = 5.0
#: As TensorBoard shows them -> as mini-trainer writes them.
_SCALARS = {
    "train/loss": "loss",
    "train/learning_rate": "lr",
    "train/grad_norm": "grad_norm",
    "train/epoch": "epoch",
    "train/tokens_per_second": "tokens_per_second",
    "eval/loss": "val_loss",
}


def keep_trackers(wanted: Sequence[str]) -> None:
    """Takes the variables of all other trackers out of the environment; ends where a wanted one is not installed."""
    for name in list(os.environ):
        if is_of_unwanted_tracker(name, wanted):
            del os.environ[name]
    for tracker in wanted:
        if tracker != TENSORBOARD and importlib.util.find_spec(tracker) is None:
            end(UNMENDABLE, f"training_report_to={tracker}: this image does not have the package {tracker}")


class EventFile:
    """A file that TensorBoard reads: TFRecords of Event messages
    (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto).

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._write(time.time(), 0, _field(3, 2, _bytes(b"brain.Event:2")))

    def add(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Adds scalars by their tags, of a time in seconds since the epoch."""
        # Summary.value: tag and simple_value.
        items = (
            _field(1, 2, _bytes(_field(1, 2, _bytes(tag.encode())) + _field(2, 5, struct.pack("<f", value))))
            for tag, value in values.items()
        )
        self._write(seconds, step, _field(5, 2, _bytes(b"".join(items))))

    def close(self) -> None:
        self._file.close()

    def _write(self, seconds: float, step: int, what: bytes) -> None:
        event = _field(1, 1, struct.pack("<d", seconds)) + _field(2, 0, _varint(step)) + what
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


class StepEvents:
    """Writes the steps of a training to an EventFile as they come.

    Args:
        metrics_file: that mini-trainer appends a line of JSON to, a step.
        read_from: bytes of it that an earlier training wrote.
        folder: of the event file.
    """

    def __init__(self, metrics_file: Path, read_from: int, folder: Path) -> None:
        self._steps, self._events = NewSteps(metrics_file, read_from), EventFile(folder)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The training has ended: writes what is left."""
        self._ended.set()
        self._thread.join()
        self._read()
        with contextlib.suppress(OSError):
            self._events.close()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_EVENTS):
            self._read()

    def _read(self) -> None:
        # A full disk, or a figure that no float32 holds, costs events and not the training.
        with contextlib.suppress(OSError, OverflowError):
            for step in self._steps.read():
                self._events.add(int(step["step"]), _scalars(step), _seconds(step.get("timestamp")))


def _scalars(step: Mapping[str, Any]) -> dict[str, float]:
    # mini-trainer repeats the last validation on every line.
    fields = {tag: field for tag, field in _SCALARS.items() if field != "val_loss" or "val_num_samples" in step}
    values = {tag: step.get(field) for tag, field in fields.items()}
    return {tag: value for tag, value in values.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def _seconds(timestamp: Any) -> float:
    """mini-trainer's time, which is local."""
    try:
        return datetime.datetime.fromisoformat(timestamp).timestamp()
    except (TypeError, ValueError):
        return time.time()


def _field(number: int, kind: int, content: bytes) -> bytes:
    """A field of a protocol buffer, with its wire type."""
    return _varint(number << 3 | kind) + content


def _bytes(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def _checksum(content: bytes) -> bytes:
    """CRC-32C (RFC 3720), rotated and shifted as TFRecords have it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
