"""Processes pieces of a stream in parallel, and gives the results in the order of the pieces."""

import ctypes
import math
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kfp_osft.shared.reporting.errors import TrainingError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# Pieces queued for each process, so that it has work while the others' results are awaited.
_AHEAD = 3
# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def usable_cores() -> int:
    """The CPU cores this process may use, by its affinity and its cgroup's limit (cpu.max, or cpu.cfs_quota_us)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [limit for limit in (_cgroup_limit(folder) for folder in _cgroup_folders()) if limit]
    return max(1, min([cores, *(math.ceil(limit) for limit in limits)]))


def in_order(pieces: Iterable[Piece], work: Callable[[Piece], Result], processes: int) -> Iterator[Result]:
    """Yields work(piece) for each piece, in order.

    Args:
        pieces: read a few ahead of the results, in a thread of this process; must be picklable.
        work: runs in forks of this process, so it need not be picklable; its results must be.
        processes: number of forks; with 1 this process does the work itself.

    Raises:
        Whatever `pieces` and `work` raise, in place of the piece's result.
        TrainingError: a process died, for example because it ran out of memory.
    """
    if processes == 1:
        for piece in pieces:
            yield work(piece)
        return
    parent = os.getpid()
    workers: list[tuple[int, Connection]] = []
    try:
        for _ in range(processes):
            ours, theirs = Pipe()
            pid = os.fork()
            if pid == 0:
                ours.close()
                for _, other in workers:
                    other.close()
                _serve(theirs, work, parent)
            theirs.close()
            workers.append((pid, ours))
        yield from _results(pieces, workers)
    finally:
        for pid, connection in workers:
            connection.close()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid, _ in workers:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _results(pieces: Iterable[Any], workers: list[tuple[int, Connection]]) -> Iterator[Any]:
    """Hands pieces out in turn, from a thread, as a pipe may be full in both directions."""
    handed_out: queue.Queue[tuple[int, Connection] | BaseException | None] = queue.Queue(_AHEAD * len(workers))

    def hand_out() -> None:
        end: BaseException | None = None
        try:
            for number, piece in enumerate(pieces):
                worker = workers[number % len(workers)]
                # Blocks while enough pieces are queued.
                handed_out.put(worker)
                worker[1].send_bytes(pickle.dumps(piece, pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            # Either a process died, which reading its results will report, or the pieces cannot be read.
            end = error if not isinstance(error, (BrokenPipeError, ConnectionResetError)) else None
        except BaseException as error:
            end = error
        handed_out.put(end)

    threading.Thread(target=hand_out, name="pieces", daemon=True).start()
    while isinstance(worker := handed_out.get(), tuple):
        yield _received(*worker)
    if worker is not None:
        raise worker


def _received(pid: int, connection: Connection) -> Any:
    try:
        result = pickle.loads(connection.recv_bytes())
    except (EOFError, OSError):
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        reason = "it may have run out of memory" if code == -signal.SIGKILL else f"exit code {code}"
        raise TrainingError(f"a tokenizing process died: {reason}") from None
    if isinstance(result, BaseException):
        raise result
    return result


def _serve(connection: Connection, work: Callable[[Any], Any], parent: int) -> NoReturn:
    """What a fork does: reads pieces and writes results until there are no more pieces or its parent is gone."""
    code = 1
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Ctrl-C reaches every process of the terminal's group; the parent ends the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while os.getppid() == parent:
            try:
                piece = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):
                break
            try:
                result = work(piece)
            except Exception as error:
                result = error
            connection.send_bytes(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))
        code = 0
    finally:
        # The parent's cleanup must not run here, nor its buffers be written.
        os._exit(code)


def _cgroup_folders() -> Iterator[Path]:
    """This process's cgroup and its parents: of version 2, or the cpu controller's of version 1."""
    root = Path("/sys/fs/cgroup")
    yield root
    yield root / "cpu"
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            base = root if not controllers else root / controllers
            folder = base / path.lstrip("/")
            yield from (part for part in (folder, *folder.parents) if part.is_relative_to(base))


def _cgroup_limit(folder: Path) -> float | None:
    """The limit in cores (CPU time per wall-clock time); None without a limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return quota / period if quota > 0 else None
    return None
