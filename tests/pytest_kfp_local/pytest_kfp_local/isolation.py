"""Keeps a run apart from the user's environment, and from the state that kfp.local leaves in this process."""

import builtins
import logging
import os
import shutil
import site
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pytest

#: Variables that tell a program which cluster, account or run is the user's.
HIDDEN_VARIABLES = (
    "KFP_*",
    "KUBE*",
    "AWS_*",
    "AZURE_*",
    "GOOGLE_*",
    "HF_TOKEN*",
    "HUGGING_FACE_HUB_TOKEN",
    "XDG_*",
    "CLUSTER_SPEC",
    "VERTEX_AI_*",
)

_AT_START = dict(os.environ)


def task_environment(folder: Path, packages: Path | None) -> dict[str, str | None]:
    """What differs in a task's environment from this process's; None: not there.

    Variables that a test or a fixture has set since pytest started stay as they are.

    Args:
        folder: has the folders home and tmp.
        packages: where the tasks' pip installs; None if it does not run.
    """
    hidden = {
        name: None
        for name, value in os.environ.items()
        if _AT_START.get(name) == value and any(fnmatch(name, pattern) for pattern in HIDDEN_VARIABLES)
    }
    changes = {
        **hidden,
        "TMPDIR": str(folder / "tmp"),
        # stderr and stdout come in the order in which they were written: a traceback is last.
        "PYTHONUNBUFFERED": "1",
        # The programs of this environment, also where it is not activated.
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
    }
    if os.environ.get("HOME") == _AT_START.get("HOME"):
        # Packages that were installed with pip --user are found all the same.
        changes |= {"HOME": str(folder / "home"), "PYTHONUSERBASE": site.getuserbase()}
    if packages:
        config = os.environ.get("PIP_CONFIG_FILE", os.path.expanduser("~/.config/pip/pip.conf"))
        changes |= {
            "PIP_TARGET": str(packages),
            "PIP_CONFIG_FILE": config,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")])),
        }
    return changes


@contextmanager
def apart(environment: Mapping[str, str | None]) -> Iterator[None]:
    """Within: the environment, no warnings of kfp.local's, a workspace that stays. After: all as it was."""
    from kfp.local import config, pipeline_orchestrator, subprocess_task_handler

    root = logging.getLogger()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name, value in environment.items():
            patch.delenv(name) if value is None else patch.setenv(name, value)
        # That resources, display names and the image are for clusters only.
        warnings.filterwarnings("ignore", module=r"kfp\.local")
        patch.setattr(config.LocalExecutionConfig, "instance", None)
        # kfp.local removes the workspace when a pipeline ends.
        patch.setattr(
            pipeline_orchestrator, "shutil", types.SimpleNamespace(**{**vars(shutil), "rmtree": lambda folder: None})
        )
        # The command has it already; kfp.local would replace python3 in the arguments, too.
        patch.setattr(subprocess_task_handler, "replace_python_executable", lambda command, python: command)
        # The tasks of a parallel loop may put these back in the wrong order.
        patch.setattr(builtins, "print", print)
        patch.setattr(root, "handlers", list(root.handlers))
        patch.setattr(root, "level", root.level)
        yield
