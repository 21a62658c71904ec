"""A life that really runs the TrainJob: each node's command is a process on this computer."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fakes.kubernetes import kubelet
from fakes.kubernetes.lives import Job, JobGone
from fakes.kubernetes.pods import Pod
from fakes.kubernetes.store import Body
from kfp_osft.shared.processes.process_tree import ProcessTree

if TYPE_CHECKING:
    from fakes.kubernetes.cluster import Life


def run_as_processes(
    *,
    claims: Mapping[str, Path | str] | None = None,
    backoff_limit: int = 0,
    image_environment: Mapping[str, str] | None = None,
    linger: float = 0.3,
) -> "Life":
    """A life that runs exactly what the stored manifest says.

    Each node is one process: trainer.command and args, with trainer.env (secretKeyRef, configMapKeyRef and fieldRef
    resolved; $(NAME) expanded as the kubelet does) and the server's PET_* for a rendezvous on 127.0.0.1. `python` is
    this interpreter, HOME and the working folder are empty temporary ones. Output is the pod's log as it comes. All
    nodes with exit code 0 make the TrainJob Complete. When it is deleted, its processes are killed with all that
    they have started. A key that is missing from a Secret keeps a pod in CreateContainerConfigError until it is there.

    Args:
        claims: PersistentVolumeClaims there are, and the folder that stands for each. The container must mount the
            claim at the folder or above it, since paths here are real ones; otherwise the life fails the test.
        backoff_limit: how often failed containers are started again, before the TrainJob is Failed.
        image_environment: what the image sets, beside PATH, HOME and TMPDIR.
        linger: seconds between the last failure and its pods' deletion.
    """
    folders = {name: Path(folder) for name, folder in (claims or {}).items()}

    def life(job: Job) -> None:
        job.create_pods()
        for pod in job.pods:
            for claim in kubelet.unknown_claims(pod.body, folders):
                pod.unschedulable(f'0/3 nodes are available: persistentvolumeclaim "{claim}" not found.')
                job.wait_for_deletion()
                return
            wrong = list(kubelet.uncovered(pod.body, folders))
            if wrong:
                raise AssertionError("; ".join(wrong))
        rendezvous = _rendezvous(job)
        nodes = [_Node(job, pod, rendezvous, dict(image_environment or {})) for pod in job.pods]
        try:
            for node in nodes:
                node.start()
            _follow(job, nodes, backoff_limit, linger)
        finally:
            for node in nodes:
                node.kill(job.cluster.store.termination_seconds)

    return life


def _follow(job: Job, nodes: list["_Node"], restarts: int, linger: float) -> None:
    """Returns when all nodes have succeeded, or one is out of retries. Raises JobGone."""
    waiting = list(nodes)
    while waiting:
        job.wait_for(lambda: any(node.exit_code is not None for node in waiting))
        for node in [node for node in waiting if node.exit_code is not None]:
            code = node.exit_code
            node.report()
            if code == 0:
                waiting.remove(node)
            elif restarts:
                restarts -= 1
                node.start(again=True)
            else:
                job.sleep(linger)
                job.fail()
                return
    job.complete()


def _rendezvous(job: Job) -> dict[str, str]:
    """The variables that the torch plugin sets; all nodes are on this computer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {
        "PET_NNODES": str(job.nodes),
        "PET_NPROC_PER_NODE": _processes_per_node(job.manifest["spec"].get("trainer", {})),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }


def _processes_per_node(trainer: Body) -> str:
    """As in the torch plugin: without GPUs, "auto" is the number of CPUs."""
    wanted = trainer.get("numProcPerNode", "auto")
    if wanted not in ("auto", "cpu"):
        return str(wanted)
    resources = trainer.get("resourcesPerNode", {})
    amounts = resources.get("limits") or resources.get("requests") or {}
    if wanted == "auto" and any("gpu" in name.lower() for name in amounts):
        return "auto"
    cpus = str(amounts.get("cpu", 1))
    return str(max(1, int(cpus))) if cpus.isdecimal() else "1"


class _Node:
    """The process of one node."""

    def __init__(self, job: Job, pod: Pod, rendezvous: dict[str, str], image_environment: dict[str, str]) -> None:
        self._job, self._pod, self._rendezvous, self._image = job, pod, rendezvous, image_environment
        self._process: subprocess.Popen[bytes] | None = None
        self._tree: ProcessTree | None = None
        self._reader: threading.Thread | None = None
        self._folder = tempfile.TemporaryDirectory(prefix=f"{pod.name}-", ignore_cleanup_errors=True)
        self.exit_code: int | None = None

    def start(self, *, again: bool = False) -> None:
        """Raises JobGone, also while it waits for a Secret."""
        self.exit_code = None
        own = self._own_environment()
        base = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": self._folder.name,
            "TMPDIR": self._folder.name,
        } | self._image
        if again:
            self._pod.restart()
        else:
            self._pod.start()
        words = kubelet.command_line(kubelet.container_of(self._pod.body), own)
        try:
            self._process = subprocess.Popen(
                words,
                env=base | own,
                cwd=self._folder.name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._pod.log(f"exec: {words[0]!r}: {error.strerror}")
            self._set_exit_code(128)
            return
        self._tree = ProcessTree(self._process.pid)
        self._reader = threading.Thread(target=self._read, args=(self._process, self._tree), daemon=True)
        self._reader.start()

    def report(self) -> None:
        """Puts the exit code into the pod's status."""
        assert self.exit_code is not None
        self._pod.terminate(self.exit_code, "StartError" if self._process is None else None)

    def kill(self, grace: float) -> None:
        """SIGTERM, then SIGKILL for what is left after `grace` seconds."""
        if self._tree is not None:
            self._tree.end(grace)
        if self._reader is not None:
            self._reader.join()
        self._folder.cleanup()

    def _own_environment(self) -> dict[str, str]:
        """Waits, as the kubelet does, until everything that env refers to exists."""
        while True:
            try:
                own = kubelet.environment(self._job.cluster, self._pod.body)
            except kubelet.ConfigError as error:
                self._pod.waiting("CreateContainerConfigError", str(error))
                self._job.wait_for(self._is_configured)
            else:
                return own | self._rendezvous | {"PET_NODE_RANK": str(self._pod.index)}

    def _is_configured(self) -> bool:
        try:
            kubelet.environment(self._job.cluster, self._pod.body)
        except kubelet.ConfigError:
            return False
        return True

    def _read(self, process: subprocess.Popen[bytes], tree: ProcessTree) -> None:
        assert process.stdout is not None
        looked = 0.0
        with process.stdout as output:
            while True:
                something = select.select([output], [], [], 0.5)[0]
                if process.poll() is not None:
                    # Processes that the container's first process leaves behind are killed.
                    tree.end(0)
                elif time.monotonic() - looked > 1:
                    tree.living()
                    looked = time.monotonic()
                if something:
                    text = os.read(output.fileno(), 65536)
                    if not text:
                        break
                    # It is being deleted: nobody reads its log.
                    with contextlib.suppress(JobGone, ValueError):
                        self._pod.log_part(text)
        code = process.wait()
        tree.end(0)
        self._set_exit_code(128 - code if code < 0 else code)

    def _set_exit_code(self, code: int) -> None:
        changed = self._job.cluster.store.changed
        with changed:
            self.exit_code = code
            changed.notify_all()
