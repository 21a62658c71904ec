"""How long the engine waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """How the engine waits, in seconds.

    Attributes:
        poll: between two looks at a TrainJob that runs or waits.
        hurry: between two looks where much happens: pods start, a log has ended.
        look: how long one look asks an API server that is unavailable.
        creation: how long a server that is unavailable is asked for what comes before the training runs.
        trouble: how long a reason that hardly mends by itself (an image that cannot be pulled) may stand.
        refused: how long the API server may refuse the token, or the right to look, while a training runs.
        unreachable: how long it may be unavailable while a training runs.
        deletion: how long to ask for a deletion, and to wait for the pods to be gone.
        doubt: how long a TrainJob whose creation was interrupted may still turn up.
        recovery: how long all nodes must run after a failure for the job to have survived it; the Job controller
            removes a pod that has failed too often only after the kubelet has started it again.
        log: how long to wait for the rest of the log of a training that has ended.
        sign: between two signs of life.
    """

    poll: float = 5
    hurry: float = 1
    look: float = 8
    creation: float = 120
    trouble: float = 120
    refused: float = 600
    unreachable: float = 1800
    deletion: float = 120
    doubt: float = 10
    recovery: float = 30
    log: float = 20
    sign: float = 5
