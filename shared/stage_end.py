"""The last line of a stage's log: how it ended, and after how long."""

import atexit
import sys
import time

from kfp_osft.shared.duration import duration_text
from kfp_osft.shared.termination import Terminated

#: How that line begins.
STAGE_END = "Stage "


def tell_end() -> None:
    """Makes this process say at its end whether it was complete, failed or stopped, and how long it took from now on."""
    began = time.monotonic()

    def tell() -> None:
        # Python sets last_value when it reports an exception that nobody caught; a SystemExit it does not report.
        how = "stopped" if Terminated.came else "failed" if hasattr(sys, "last_value") else "complete"
        print(f"{STAGE_END}{how} after {duration_text(time.monotonic() - began)}", flush=True)

    atexit.register(tell)
