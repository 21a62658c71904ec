"""The engine's intervals and time limits."""

from dataclasses import dataclass

from kfp_osft.shared.files.ownership import PACE, Pace


@dataclass(frozen=True)
class Timing:
    """Intervals and time limits of the engine, in seconds.

    Attributes:
        poll: between two polls of a TrainJob that runs or waits.
        hurry: between two polls while much happens: pods are starting, a log has ended.
        look: how long one poll retries while the API server is unavailable.
        creation: how long requests before the start of the training are retried while it is unavailable.
        trouble: how long a problem that rarely resolves by itself (an image that cannot be pulled) may last.
        refused: how long the API server may reject the token, or deny reading, while a training runs.
        unreachable: how long it may be unavailable while a training runs.
        deletion: how long to retry a deletion, and to wait until the pods are gone.
        doubt: how long a TrainJob whose creation was interrupted may still appear.
        recovery: how long all nodes must run after a failure for the job to count as recovered; the Job
            controller removes a pod that has failed too often only after the kubelet has restarted it.
        log: how long to wait for the rest of the log of a training that has ended.
        pace: of the launcher's owner record, by which the training knows that it is followed.
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
    pace: Pace = PACE
