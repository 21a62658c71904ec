"""What a sequence of tasks learnt and kept: the matrix of scores, and the figures made of it.

R[t][i] is the score on task i of the model that has learnt the tasks up to t; i <= t.
"""

from collections.abc import Sequence
from typing import NamedTuple

#: R: one row per model, as long as the tasks it has learnt.
Matrix = Sequence[Sequence[float]]


class Retention(NamedTuple):
    """The figures of one matrix.

    Attributes:
        average: AA, the mean over all tasks after the last one.
        learnt: the mean of each task's score right after it was learnt.
        backward_transfer: BWT; below 0 for an accuracy, and above 0 for a loss, is forgetting.
    """

    average: float
    learnt: float
    backward_transfer: float


def retention(matrix: Matrix) -> Retention:
    """AA, the mean right after learning, and BWT of a matrix with at least one row.

    With T tasks, AA = 1/T sum_i R[T][i], and BWT = 1/T sum_i (R[T][i] - R[i][i]): the overall performance and the
    backward transfer of TRACE (arXiv:2310.06762), by which OSFT is reported too (arXiv:2504.07097). The last term of
    BWT's sum is 0: Lopez-Paz and Ranzato, who introduced it (GEM, arXiv:1706.08840), divide by T - 1 in the paper,
    which is T / (T - 1) times this figure, and by T in their code (metrics.py).
    """
    tasks = len(matrix)
    last, learnt = matrix[-1], [row[at] for at, row in enumerate(matrix)]
    return Retention(
        sum(last) / tasks,
        sum(learnt) / tasks,
        sum(now - then for now, then in zip(last, learnt, strict=True)) / tasks,
    )
