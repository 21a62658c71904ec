"""A process as OpenShift runs it: a random user of group 0 without an entry, and no home folder that can be written."""

import os
import pwd
from pathlib import Path

from kfp_osft.shared.network.certificates import move_bundle

# Environment variable -> folder below the workspace's .cache: the same for the stages and the training pods.
_CACHES = {
    "HF_HOME": "huggingface",
    "XDG_CACHE_HOME": "",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
}


def cache_folders(workspace: str) -> dict[str, str]:
    """Environment variable -> folder of the workspace.

    A container's own file system is small, gone with the pod and, on OpenShift, hardly writable.
    """
    return {name: str(Path(workspace, ".cache", folder)) for name, folder in _CACHES.items()}


def join_group() -> None:
    """In a pod, makes what this process writes group-writable, since training pods run as another user; and gives a
    user without a passwd entry a name, which libraries ask for."""
    if _in_pipeline_pod():
        os.umask(0o002)
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", "kfp-osft")


def use_workspace(workspace: Path) -> None:
    """In a pod, or without a home folder that can be written, puts caches and home into the workspace.

    To be called before Hugging Face's libraries are imported. Variables that are already set keep their values.
    """
    home = os.environ.get("HOME", "")
    home_is_writable = bool(home) and os.access(home, os.W_OK)
    if home_is_writable and not _in_pipeline_pod():
        return
    folder = workspace.absolute()
    for name, place in cache_folders(str(folder)).items():
        os.makedirs(os.environ.setdefault(name, place), exist_ok=True)
    if not home_is_writable:
        os.environ["HOME"] = os.environ["XDG_CACHE_HOME"]
    move_bundle(folder / ".cache" / "certificates")


def use_workspace_of(checkpoint_dir: Path) -> None:
    """use_workspace for what is given a folder of checkpoints, <workspace>/checkpoints/<run>; another folder stands for
    itself."""
    folder = checkpoint_dir.absolute()
    use_workspace(folder.parents[1] if folder.parent.name == "checkpoints" else folder)


def _in_pipeline_pod() -> bool:
    # KFP's backend sets it; a workbench, where people run things by hand, is a pod too and has a home.
    return bool(os.environ.get("KFP_POD_NAME"))
