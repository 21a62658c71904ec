"""How a stage's log ends: with our errors' own sentence instead of a traceback, and with how long it took."""

import atexit
import os
import sys
import time
from types import TracebackType

from kfp_osft.shared.files.run_workspace import MOUNT_PATH
from kfp_osft.shared.network.certificates import trust_private_authorities
from kfp_osft.shared.processes.pod import join_group
from kfp_osft.shared.processes.termination import Terminated
from kfp_osft.shared.reporting.durations import duration_text
from kfp_osft.shared.reporting.errors import InputError, TrainingError, system_problem
from kfp_osft.shared.reporting.redaction import guard_output

#: How a stage's last lines begin when it fails with one of our errors.
INPUT_ERROR_PREFIX = "Error: "
TRAINING_ERROR_PREFIX = "Training failed: "
#: How the very last line begins.
STAGE_END = "Stage "


def begin_stage() -> None:
    """Makes this process end with the message alone where the exception is ours, and say how and when it ended; and
    sets it up for a pod of OpenShift, and for private certificate authorities.

    Raises:
        InputError: see trust_private_authorities.
    """
    _print_errors_briefly()
    _print_the_end()
    _close_stdin()
    guard_output()
    join_group()
    trust_private_authorities()


def _close_stdin() -> None:
    """Nobody answers a stage's questions, as transformers' whether to run a model's own code; a terminal's input is
    somebody else's."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _print_errors_briefly() -> None:
    default = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        # KFP's executor has the stage's parameters in its arguments.
        if any(str(MOUNT_PATH) in argument for argument in sys.argv):
            print(f"The run's volume stays, with all that is in {MOUNT_PATH}, until the run is deleted.", flush=True)
        text = str(error) if isinstance(error, (InputError, TrainingError)) else system_problem(error)
        if text is None:
            default(kind, error, traceback)
            return
        prefix = TRAINING_ERROR_PREFIX if isinstance(error, TrainingError) else INPUT_ERROR_PREFIX
        for line in text.splitlines():
            print(f"{prefix}{line}", flush=True)

    sys.excepthook = report


def _print_the_end() -> None:
    began = time.monotonic()

    def report() -> None:
        # Python sets last_value when it reports an exception that nobody caught; a SystemExit it does not report.
        how = "stopped" if Terminated.came else "failed" if hasattr(sys, "last_value") else "complete"
        print(f"{STAGE_END}{how} after {duration_text(time.monotonic() - began)}", flush=True)

    atexit.register(report)
