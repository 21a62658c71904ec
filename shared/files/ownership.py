"""Who works on a file or folder: an owner record, which one owner at a time has, on every file system.

It is made with O_EXCL, which NFS keeps between hosts too; flock does not hold there. Its owner writes a count into it
every few seconds. A process of this machine counts as gone when it is gone, whatever the count says; one of another
machine when its count has not changed for a minute, by the clock of the one who looks: those of nodes and file servers
differ. A TrainJob outlives the process that wrote its record, so the cluster is asked.
"""

import contextlib
import glob
import hashlib
import json
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.files.leftovers import machine, remove_leftovers
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log

#: The record of a folder's owner, in that folder.
OWNER_FILE = ".owner.json"
# Another process removes a record between two looks at it.
_MOMENT = 0.05
# Records are padded to a multiple of it: written in place, a shorter one would leave the end of the longer one.
_SIZE = 1024


def owner_file_of(path: Path) -> Path:
    """The record of the owner of a file or folder, beside it."""
    return path.with_name(f".{path.name}{OWNER_FILE}")


class Pace(NamedTuple):
    """Seconds between two counts of an owner, and after how many without one it is gone."""

    beat: float = 5.0
    silence: float = 60.0


#: Of all owners but those of tests.
PACE = Pace()


class Owned(Exception):
    """Somebody else owns it, and lives; the text says who, where and since when."""


class Ownership:
    """An owner record that is this process's, or that it shares.

    Attributes:
        other_is_alive: whether another process with the same key has counted of late.
        stays: whether the record is left behind at the end: what the key stands for may live on.
    """

    def __init__(self, file: Path, who: str, key: str, pace: Pace) -> None:
        self._file, self._pace = file, pace
        self._place = file.with_name(file.name[1:].removesuffix(OWNER_FILE)) if file.name != OWNER_FILE else file.parent
        self._by, self._count, self._descriptor = uuid.uuid4().hex[:12], 0, -1
        self._other_seen = float("-inf")
        self.stays = False
        self._ended, self._counting = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._record: dict[str, Any] = {
            "id": self._by,
            "who": who,
            "key": key,
            "host": platform.node(),
            "since": datetime.now(UTC).isoformat(" ", "seconds").removesuffix("+00:00") + " UTC",
            "machine": machine(),
            "processes": [[os.getpid(), _started(os.getpid())]],
        }

    @property
    def other_is_alive(self) -> bool:
        return time.monotonic() - self._other_seen < 3 * self._pace.beat

    def add_process(self, pid: int) -> None:
        """The ownership lasts until this process is gone too."""
        if started := _started(pid):
            with self._counting:
                self._record["processes"].append([pid, started])
                self._write()

    def acquire(self, wait: bool, lives: Callable[[str], bool | None] | None) -> None:
        """See owned()."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        seen: bytes | None = None
        since, looked, moves, told, contested = 0.0, 0.0, False, False, 0.0
        while not self._create():
            found, now = self._read(), time.monotonic()
            if found is None:
                # Removed meanwhile; NFS may go on saying so for a moment about one that is there.
                time.sleep(_MOMENT)
                continue
            record = _parsed(found)
            if record.get("key") and record["key"] == self._record["key"] and self._join(record):
                break
            if found != seen:
                moves, seen = seen is not None and _id(found) == _id(seen), found
                since, contested = now, 0.0
            if now - looked > self._pace.silence / 2:
                # A file server that hangs silences both.
                since = now
            looked = now
            left = bool(record.get("left"))
            here, silent = None if left else _runs_here(record), left or now - since > self._pace.silence
            alive, gone = (moves and not silent, silent) if here is None else (here, not here)
            if gone and record.get("key"):
                alive = self._job_lives(record, lives)
                gone = not alive
            if gone:
                if self._take_over(found):
                    break
                contested = contested or now
                if now - contested > self._pace.silence:
                    # Whoever was about to take it over has died over it.
                    self._claim(found).unlink(missing_ok=True)
            if alive and not wait:
                raise Owned(_described(record))
            if not told:
                told = True
                what = "waiting for it" if wait else "looking whether it lives"
                log(f"{self._place} belongs to {_described(record)}: {what}")
            # The cluster is asked less often.
            time.sleep(self._pace.beat if alive and not here else min(1.0, self._pace.beat / 4))
        if told:
            log(f"{self._place} is free now")
        remove_leftovers(self._file.parent.glob(f".{glob.escape(self._file.name)}.*"))
        self._thread.start()

    def release(self) -> None:
        """Gives it up; a record that another process with the same key goes on with stays."""
        self._ended.set()
        # A volume may hang, and the thread that writes with it.
        if not self._counting.acquire(timeout=max(1.0, self._pace.beat)):
            return
        if self.stays and not self.other_is_alive:
            self._record["left"] = True
            with contextlib.suppress(OSError):
                self._write()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        if self.stays or self.other_is_alive:
            return
        with contextlib.suppress(OSError):
            found = self._read()
            if found is not None and _id(found) == self._record["id"]:
                with self._sole_right(found, count_too=False) as granted:
                    if granted:
                        self._file.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o664)
        except FileExistsError:
            return False
        try:
            self._write()
        except OSError as error:
            self._file.unlink(missing_ok=True)
            error.filename = error.filename or str(self._file)
            raise
        # One who saw it empty for too long may have taken it over.
        return _id(self._read() or b"") == self._record["id"]

    def _join(self, record: dict[str, Any]) -> bool:
        """Shares the record of another process that follows the same."""
        try:
            self._descriptor = os.open(self._file, os.O_RDWR)
        except FileNotFoundError:
            return False
        self._record["id"], self._record["since"] = record["id"], record["since"]
        # Its age by the file server's clock.
        counted = os.fstat(self._descriptor).st_mtime
        self._write()
        age = os.fstat(self._descriptor).st_mtime - counted
        if not record.get("left") and _runs_here(record) is not False and age < 3 * self._pace.beat:
            self._other_seen = time.monotonic()
        return _id(self._read() or b"") == self._record["id"]

    def _take_over(self, found: bytes) -> bool:
        """Puts this record in the place of one whose owner is gone; False where another process did, or the owner has
        counted after all."""
        unfinished = self._file.with_name(f".{self._file.name}.{self._by}.unfinished")
        with self._sole_right(found, count_too=True) as granted:
            if not granted:
                return False
            try:
                self._descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o664)
                self._write()
                os.replace(unfinished, self._file)
            finally:
                unfinished.unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def _sole_right(self, found: bytes, count_too: bool) -> Iterator[bool]:
        """Nobody else may remove or replace this record meanwhile: not two who found its owner gone, nor the owner."""
        claim = self._claim(found)
        try:
            os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o664))
        except FileExistsError:
            yield False
            return
        try:
            now = self._read()
            yield now is not None and (now == found if count_too else _id(now) == _id(found))
        finally:
            claim.unlink(missing_ok=True)

    def _claim(self, found: bytes) -> Path:
        return self._file.with_name(f".{self._file.name}.{_id(found)}.claim")

    def _job_lives(self, record: dict[str, Any], lives: Callable[[str], bool | None] | None) -> bool:
        answer = lives(record["key"]) if lives else None
        if answer is None:
            raise InputError(
                f"{self._place} belongs to {record['who']}, and it cannot be found out here whether it still "
                f"trains; once it is gone, remove {self._file}"
            )
        return answer

    def _repeat(self) -> None:
        while not self._ended.wait(self._pace.beat):
            with self._counting, contextlib.suppress(OSError):
                if self._ended.is_set():
                    return
                found = self._read()
                if found is None:
                    if not self._file.parent.is_dir() or self._create():
                        continue
                    found = self._read() or b""
                record = _parsed(found)
                if record and record["id"] != self._record["id"]:
                    self._end(record)
                    return
                if record and record.get("by") != self._by:
                    self._other_seen = time.monotonic()
                self._write()

    def _end(self, record: dict[str, Any]) -> None:
        """Another process took this one for gone, as it was stopped for long, and works there now."""
        log(f"Error: {self._place} belongs to {_described(record)} by now: ended")
        os.kill(os.getpid(), signal.SIGTERM)

    def _read(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        # Through the open file: what has taken its place is never overwritten.
        self._count += 1
        text = json.dumps({**self._record, "by": self._by, "count": self._count}).encode()
        os.pwrite(self._descriptor, text.ljust(-(-len(text) // _SIZE) * _SIZE), 0)
        os.fsync(self._descriptor)


@contextlib.contextmanager
def owned(
    file: Path,
    who: str,
    *,
    wait: bool = True,
    key: str = "",
    lives: Callable[[str], bool | None] | None = None,
    pace: Pace = PACE,
) -> Iterator[Ownership]:
    """Owns what the record stands for until the block ends; an owner before it that is gone is none.

    Args:
        file: the record: folder / OWNER_FILE, or owner_file_of(path).
        who: for people, such as "kfp-osft preprocess".
        wait: for an owner that lives; else Owned is raised.
        key: of what outlives this process, a TrainJob; processes with the same key share the ownership.
        lives: says of the key of an owner whose process is gone whether what it stands for lives, None where it cannot
            be found out.
        pace: of the owners of this record.

    Raises:
        Owned: somebody else has it, and `wait` is False.
        InputError: only the cluster knows whether its owner lives, and cannot be asked.
        OSError: the record cannot be written.
    """
    ownership = Ownership(file, who, key, pace)
    try:
        ownership.acquire(wait, lives)
        yield ownership
    finally:
        ownership.release()


def _parsed(found: bytes) -> dict[str, Any]:
    """A record; {} for one that is not whole yet, or another file."""
    try:
        record = json.loads(found)
        whole = record["id"] and record["who"] and all(int(pid) and started for pid, started in record["processes"])
        return record if whole else {}
    except (ValueError, LookupError, TypeError):
        return {}


def _id(found: bytes) -> str:
    return _parsed(found).get("id") or hashlib.sha256(found).hexdigest()[:12]


def _described(record: dict[str, Any]) -> str:
    if not record:
        return "a process that has just come"
    process = "" if record.get("key") else f", process {record['processes'][0][0]}"
    return f"{record['who']}{process} on {record.get('host')} since {record.get('since')}"


def _runs_here(record: dict[str, Any]) -> bool | None:
    """Whether a process of the owner runs on this machine; None for an owner elsewhere."""
    if record.get("machine") != machine():
        return None
    return any(_is_alive(pid, started) for pid, started in record["processes"])


def _is_alive(pid: int, started: str) -> bool:
    if now := _started(pid):
        return now == started
    try:
        os.kill(pid, 0)
    except PermissionError:
        # Of another user, hidden from this one (proc(5), hidepid).
        return True
    except OSError:
        return False
    # Not a zombie: it cannot be looked at.
    return now is None


def _started(pid: int) -> str | None:
    """When the process started, which tells it from a later one of the same id; "" of a zombie, which writes nothing
    any more; None where it is gone or cannot be looked at."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = text.rpartition(")")[2].split()
        # proc_pid_stat(5): field 22, in clock ticks since the boot.
        return "" if state in "ZX" else fields[18]
    if os.path.exists("/proc/self/stat"):
        return None
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    return None
