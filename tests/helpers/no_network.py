"""Runs a program in a network namespace with loopback alone, and records each attempt to reach anything else."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Python loads it first in each of its processes that has its folder on the path.
_SITE_CUSTOMIZE = """
import os, socket, sys

_LOCAL = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::", socket.gethostname()}

def _record(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host is not None and host not in _LOCAL and not host.startswith("127."):
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(f"{event} {host}: {sys.argv[:3]}\\n")

sys.addaudithook(_record)
"""
# Loopback is down in a new namespace (SIOCSIFFLAGS, IFF_UP); torchrun's workers meet there.
_LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 1))
os.execvp(sys.argv[1], sys.argv[1:])
"""
_UNSHARE = ("unshare", "--map-root-user", "--net")


@functools.cache
def why_no_namespace() -> str:
    """Why this kernel or container lets nobody make a network namespace; empty if it does."""
    if not shutil.which("unshare"):
        return "util-linux's unshare is not installed"
    tried = subprocess.run([*_UNSHARE, sys.executable, "-c", _LOOPBACK_UP, "true"], capture_output=True, text=True)
    return f"no network namespace: {tried.stderr.strip().splitlines()[-1:]}" if tried.returncode else ""


def run_without_network(command: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs a program there.

    Args:
        command: the program and its arguments.
        folder: its working directory.

    Returns:
        The process with its output, and the attempts: event and host.
    """
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE_CUSTOMIZE)
    attempts = folder / "attempts.txt"
    attempts.touch()
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "ATTEMPTS": str(attempts),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(
        [*_UNSHARE, sys.executable, "-c", _LOOPBACK_UP, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    return done, attempts.read_text().splitlines()
