"""Part of the training script: what it says, and the exit codes that tell a failure that a retry mends from others."""

import sys
from typing import NoReturn

#: Before what the training script itself says, among some hundred lines of mini-trainer's.
SAY = "kfp-osft: "
#: The training would end so again: arguments, image, data or the result are wrong. No program's own: 1 is any Python
#: error, and above 128 are signals.
UNMENDABLE = 78
#: Nobody follows the training.
UNATTENDED = 79
#: Exit codes after which there is no sense in another attempt.
FINAL_EXIT_CODES = (UNMENDABLE, UNATTENDED)
#: As a shell has it for SIGTERM: the pod is taken away, and the next attempt goes on.
INTERRUPTED = 143


def end(exit_code: int, sentence: str) -> NoReturn:
    """Says why, and ends with that code."""
    print(SAY + sentence, file=sys.stderr, flush=True)
    sys.exit(exit_code)
